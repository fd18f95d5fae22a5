package image

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// A reference is what a user calls an image: a name as docker takes it, or a
// path.
type reference struct {
	// path is that of a layout or an archive, as it was given; "" for a name.
	path string
	// name is the canonical name, "index.docker.io/library/alpine:latest", or
	// with "@sha256:..." in place of the tag; "" for a path.
	name string
	ref  name.Reference
	// pinned is the digest that the name demands, of a manifest or an index;
	// zero if it has a tag.
	pinned v1.Hash
}

// repositoryName is the grammar of repositories in the OCI distribution
// specification. The library takes "a/../b" too, which is another path in URLs.
var repositoryName = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)

// parseReference parses a reference. The error matches ErrReference. A path is absolute or begins with "./" or
// "../", which no name does.
func parseReference(s string) (reference, error) {
	if filepath.IsAbs(s) || strings.HasPrefix(s, "./") || strings.HasPrefix(s, "../") {
		return reference{path: s}, nil
	}
	ref, err := name.ParseReference(s)
	if err == nil {
		// With what it leaves out it may be longer than names may be.
		_, err = name.ParseReference(ref.Name())
	}
	if err != nil {
		return reference{}, fmt.Errorf("%w: %w", ErrReference, err)
	}
	if repo := ref.Context().RepositoryStr(); !repositoryName.MatchString(repo) {
		return reference{}, fmt.Errorf("%w: %q is no name of a repository", ErrReference, repo)
	}
	r := reference{name: ref.Name(), ref: ref}
	if digest, ok := ref.(name.Digest); ok {
		r.pinned, err = parseHash(digest.DigestStr())
		if err != nil {
			return reference{}, fmt.Errorf("%w: %v", ErrReference, err)
		}
	}
	return r, nil
}

// familiar returns a canonical name as docker shows it.
func familiar(canonical string) string {
	short, ok := strings.CutPrefix(canonical, name.DefaultRegistry+"/")
	if !ok {
		return canonical
	}
	if official := strings.TrimPrefix(short, "library/"); !strings.Contains(official, "/") {
		return official
	}
	return short
}

// parseHash parses a digest. Only SHA-256 is taken: it is what everybody uses,
// and what the paths of blobs have.
func parseHash(s string) (v1.Hash, error) {
	h, err := v1.NewHash(s)
	if err != nil {
		return v1.Hash{}, refused("digest %q: %v", abbreviated(s), err)
	}
	if err := checkHash(h); err != nil {
		return v1.Hash{}, err
	}
	return h, nil
}

// checkHash reports whether a digest, which may have been parsed leniently, can
// be trusted to be one of SHA-256: it becomes a file's name.
func checkHash(h v1.Hash) error {
	if h.Algorithm != "sha256" || len(h.Hex) != 64 || strings.Trim(h.Hex, "0123456789abcdef") != "" {
		return refused("digest %q is not of SHA-256", abbreviated(h.String()))
	}
	return nil
}
