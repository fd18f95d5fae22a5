package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// An entry is an entry of a layer, made by one of the functions below and
// refined by its methods.
type entry struct {
	h       tar.Header
	content string
}

// buildTime is when the tests' files were last changed.
var buildTime = time.Unix(1_700_000_000, 0)

func newEntry(kind byte, name string, mode int64) entry {
	return entry{h: tar.Header{Typeflag: kind, Name: name, Mode: mode, ModTime: buildTime}}
}

func file(name, content string) entry {
	e := newEntry(tar.TypeReg, name, 0o644)
	e.content, e.h.Size = content, int64(len(content))
	return e
}

func dir(name string) entry  { return newEntry(tar.TypeDir, name+"/", 0o755) }
func fifo(name string) entry { return newEntry(tar.TypeFifo, name, 0o600) }

func sym(name, target string) entry {
	e := newEntry(tar.TypeSymlink, name, 0o777)
	e.h.Linkname = target
	return e
}

func hard(name, target string) entry {
	e := newEntry(tar.TypeLink, name, 0o644)
	e.h.Linkname = target
	return e
}

func dev(name string, major, minor int64) entry {
	e := newEntry(tar.TypeChar, name, 0o666)
	e.h.Devmajor, e.h.Devminor = major, minor
	return e
}

// wh is the whiteout of a path, opq that of all that a directory has.
func wh(path string) entry {
	dir, base := "", path
	if i := strings.LastIndex(path, "/"); i >= 0 {
		dir, base = path[:i+1], path[i+1:]
	}
	return newEntry(tar.TypeReg, dir+whiteoutPrefix+base, 0)
}

func opq(dir string) entry { return newEntry(tar.TypeReg, dir+"/"+whiteoutOpaque, 0) }

func (e entry) mode(m int64) entry       { e.h.Mode = m; return e }
func (e entry) owner(uid, gid int) entry { e.h.Uid, e.h.Gid = uid, gid; return e }
func (e entry) kind(k byte) entry        { e.h.Typeflag = k; return e }
func (e entry) at(t time.Time) entry     { e.h.ModTime = t; return e }
func (e entry) xattr(k, v string) entry {
	e.h.PAXRecords = maps.Clone(e.h.PAXRecords)
	if e.h.PAXRecords == nil {
		e.h.PAXRecords = make(map[string]string)
	}
	e.h.PAXRecords[paxXattr+k] = v
	return e
}

// layer returns the tar archive of entries.
func layer(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if err := w.WriteHeader(&e.h); err != nil {
			t.Fatalf("entry %q: %v", e.h.Name, err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// gzipOf returns b compressed.
func gzipOf(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// zstdOf is gzipOf for zstd.
func zstdOf(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(b, nil)
}

// unpackLayers applies layers, tar archives, in dir/root, as unpack does.
func unpackLayers(ctx context.Context, dir string, owners *Owners, limits Limits, layers ...[]byte) (*applier, *Image, error) {
	path := filepath.Join(dir, rootName)
	if err := os.Mkdir(path, 0o700); err != nil {
		return nil, nil, err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, nil, err
	}
	defer root.Close()
	d := newDisk(root, owners)
	defer d.close()
	a := newApplier(d, limits.withDefaults())
	for _, l := range layers {
		m := &meter{src: bytes.NewReader(l), limits: a.limits}
		z, err := decompress(m)
		if err != nil {
			return a, nil, err
		}
		err = a.apply(ctx, z, m)
		z.Close()
		if err != nil {
			return a, nil, err
		}
	}
	if err := d.seal(a.root); err != nil {
		return a, nil, err
	}
	return a, &Image{RootDir: path}, finishRoot(dir, a, owners)
}

// mustUnpack is unpackLayers with this process's owners in a directory of its
// own, which is removed at the end.
func mustUnpack(t *testing.T, layers ...[]byte) (*applier, *Image) {
	t.Helper()
	owners := DefaultOwners()
	a, img, err := unpackLayers(t.Context(), workDir(t), &owners, Limits{}, layers...)
	if err != nil {
		t.Fatal(err)
	}
	return a, img
}

// workDir returns an empty directory that is removed at the end, whatever modes
// are in it. It is in memory where that is possible: every pull waits for a disk.
func workDir(t testing.TB) string {
	t.Helper()
	return dirIn(t, fastDir())
}

// dirIn is workDir in a directory; "" is that for temporary files.
func dirIn(t testing.TB, parent string) string {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("nothing is unpacked here: files can't be locked")
	}
	dir, err := os.MkdirTemp(parent, "image-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := removeTree(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// listing returns what a tar has, one line per entry:
//
//	d 0755 0:0 usr/
//	f 4755 0:0 usr/a "content"
//	l usr/b -> a
//	h usr/c => usr/a
//	c 0666 0:0 dev/null 1:3
//	p 0600 0:0 run/fifo
func listing(t testing.TB, archive []byte) []string {
	t.Helper()
	var lines []string
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return lines
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line(h, string(content)))
	}
}

// line is listing for one entry.
func line(h *tar.Header, content string) string {
	about := fmt.Sprintf("%04o %d:%d %s", h.Mode, h.Uid, h.Gid, h.Name)
	var s string
	switch h.Typeflag {
	case tar.TypeDir:
		s = "d " + about
	case tar.TypeReg:
		s = fmt.Sprintf("f %s %q", about, content)
	case tar.TypeSymlink:
		s = "l " + h.Name + " -> " + h.Linkname
	case tar.TypeLink:
		s = "h " + h.Name + " => " + h.Linkname
	case tar.TypeChar:
		s = fmt.Sprintf("c %s %d:%d", about, h.Devmajor, h.Devminor)
	case tar.TypeFifo:
		s = "p " + about
	default:
		s = fmt.Sprintf("%q %s", h.Typeflag, about)
	}
	for _, key := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		if name, ok := strings.CutPrefix(key, paxXattr); ok {
			s += fmt.Sprintf(" %s=%q", name, h.PAXRecords[key])
		}
	}
	return s
}

// tarOf returns what WriteTar writes.
func tarOf(t testing.TB, i *Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := i.WriteTar(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// mustPlatform parses a platform.
func mustPlatform(s string) v1.Platform {
	p, err := platformOf(s)
	if err != nil {
		panic(err)
	}
	return p
}
