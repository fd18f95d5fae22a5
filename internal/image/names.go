package image

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// A nameRecord says what a name means on a platform.
type nameRecord struct {
	Name     string `json:"name"` // canonical; see reference
	Platform string `json:"platform"`
	// Digest is that of the platform's manifest.
	Digest v1.Hash `json:"digest"`
	// Resolved is what the name stood for where it was found: an index's digest,
	// or the manifest's.
	Resolved v1.Hash   `json:"resolved"`
	Time     time.Time `json:"time"` // when the name was given to it
}

// nameFile returns the path of a name's record. Names have characters that file
// names lack, and may be longer.
func (s *Store) nameFile(name string, platform v1.Platform) string {
	return s.path(namesDir, hashBytes([]byte(name+"\x00"+platform.String())).Hex+".json")
}

// lookUp returns what a name means on a platform, nil if nothing.
func (s *Store) lookUp(name string, platform v1.Platform) (*nameRecord, error) {
	return readName(s.nameFile(name, platform))
}

// readName reads a record; nil if there is none.
func readName(path string) (*nameRecord, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var rec nameRecord
	err = json.Unmarshal(text, &rec)
	if err == nil {
		err = errors.Join(checkHash(rec.Digest), checkHash(rec.Resolved)) // they become paths
	}
	if err != nil {
		return nil, fmt.Errorf("%w: remove %s", err, path)
	}
	return &rec, nil
}

// setName makes a name mean an image, in place of what it meant before.
func (s *Store) setName(t *scratch, name string, platform v1.Platform, digest, resolved v1.Hash) error {
	rec := nameRecord{Name: name, Platform: platform.String(), Digest: digest, Resolved: resolved, Time: s.cfg.now().UTC()}
	text, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	// By a rename: who reads it meanwhile sees the old record or the new one.
	if err := writeSynced(t.path("name"), append(text, '\n')); err != nil {
		return err
	}
	if err := os.Rename(t.path("name"), s.nameFile(name, platform)); err != nil {
		return err
	}
	return syncDir(s.path(namesDir))
}

// dropName removes a name.
func (s *Store) dropName(rec *nameRecord) error {
	platform, err := platformOf(rec.Platform)
	if err != nil {
		return err
	}
	err = os.Remove(s.nameFile(rec.Name, platform))
	if errors.Is(err, fs.ErrNotExist) { // somebody else has removed it
		return nil
	}
	return err
}

// allNames returns every record, sorted by the name that users see, and by
// platform.
func (s *Store) allNames() ([]*nameRecord, error) {
	entries, err := os.ReadDir(s.path(namesDir))
	if err != nil {
		return nil, err
	}
	var all []*nameRecord
	for _, e := range entries {
		rec, err := readName(s.path(namesDir, e.Name()))
		if err != nil {
			return nil, err
		}
		if rec != nil { // else it was removed meanwhile
			all = append(all, rec)
		}
	}
	slices.SortFunc(all, func(a, b *nameRecord) int {
		return cmp.Or(strings.Compare(familiar(a.Name), familiar(b.Name)), strings.Compare(a.Platform, b.Platform))
	})
	return all, nil
}

// writeSynced writes a new file and puts it on the disk.
func writeSynced(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
