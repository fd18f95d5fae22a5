package disk

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/image"
	"github.com/sluicenet/sluice/internal/netlab"
)

// then is a time with all that a file system may lose.
var then = time.Unix(1234567890, 123456789)

// archive returns a tar of the entries, each with the content of its name.
func archive(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		h.Format, h.ModTime = tar.FormatPAX, then
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			io.WriteString(w, h.Name)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// everything is what an image may have, and an unprivileged user can't make.
func everything() []tar.Header {
	return []tar.Header{
		{Typeflag: tar.TypeDir, Name: "./", Mode: 0o751, Uid: 7, Gid: 8},
		{Typeflag: tar.TypeDir, Name: "./etc/", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: "./etc/shadow", Mode: 0o640, Uid: 0, Gid: 42},
		{Typeflag: tar.TypeReg, Name: "./sudo", Mode: 0o4755},
		{Typeflag: tar.TypeReg, Name: "./big-ids", Mode: 0o600, Uid: 3000000000, Gid: 100000},
		{Typeflag: tar.TypeReg, Name: "./ping", Mode: 0o755, PAXRecords: map[string]string{
			"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
			"SCHILY.xattr.user.note":           strings.Repeat("n", 1000),
		}},
		{Typeflag: tar.TypeLink, Name: "./ping6", Linkname: "./ping"},
		{Typeflag: tar.TypeSymlink, Name: "./short", Linkname: "etc"},
		{Typeflag: tar.TypeSymlink, Name: "./long", Linkname: strings.Repeat("/very/long", 40)},
		{Typeflag: tar.TypeChar, Name: "./null", Mode: 0o666, Devmajor: 1, Devminor: 3},
		{Typeflag: tar.TypeBlock, Name: "./disk", Mode: 0o660, Devmajor: 259, Devminor: 300},
		{Typeflag: tar.TypeFifo, Name: "./pipe", Mode: 0o644},
		{Typeflag: tar.TypeReg, Name: "./" + strings.Repeat("n", 255), Mode: 0o644},
		{Typeflag: tar.TypeReg, Name: "./ü\xff\n", Mode: 0o644},
	}
}

// debugfs runs a command of debugfs(8) on a file system and returns what it says.
// It prints ids as signed numbers: 3000000000 is -1294967296.
func debugfs(t *testing.T, disk, command string) string {
	t.Helper()
	out, err := exec.Command(netlab.Tool(t, "debugfs"), "-R", command, disk).CombinedOutput()
	if err != nil {
		t.Fatalf("debugfs -R %q: %v\n%s", command, err, out)
	}
	return string(out)
}

// fsck checks a file system and changes nothing. The one thing that it may find is
// of no consequence: bits behind an inode bitmap's end, which no kernel reads.
func fsck(t *testing.T, disk string) {
	t.Helper()
	out, err := exec.Command(netlab.Tool(t, "e2fsck"), "-f", "-n", disk).CombinedOutput()
	const found = " no\n"
	harmless := strings.Count(string(out), "Padding at end of inode bitmap is not set. Fix?"+found)
	if err != nil && harmless != strings.Count(string(out), found) {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
}

// make makes a disk of an archive and returns its path.
func makeDisk(t *testing.T, archive []byte) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := FromTar(bytes.NewReader(archive), f); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// A disk has what the archive says, whoever made it.
func TestFromTar(t *testing.T) {
	t.Parallel()
	disk := makeDisk(t, archive(t, everything()...))
	fsck(t, disk)
	for _, row := range []struct{ command, want string }{
		{"stat /", "User:     7   Group:     8"},
		{"stat /", "Mode:  0751"},
		{"stat /etc/shadow", "Group:    42"},
		{"stat /sudo", "Mode:  04755"},
		{"stat /big-ids", "User: -1294967296   Group: 100000"},
		{"stat /ping", "Links: 2"},
		{"stat /ping6", "Links: 2"},
		{"ea_list /ping", "security.capability (20)"},
		{"ea_list /ping", "user.note (1000)"},
		{"stat /short", `Fast link dest: "etc"`},
		{"cat /long", "/very/long/very/long"},
		{"stat /null", "Type: character special"},
		{"stat /null", "Device major/minor number: 01:03"},
		{"stat /disk", "Device major/minor number: 259:300"},
		{"stat /pipe", "Type: FIFO"},
		{"cat /" + strings.Repeat("n", 255), "./" + strings.Repeat("n", 255)},
		{"stat /etc/shadow", "Fri Feb 13 23:31:30 2009"},
	} {
		if got := debugfs(t, disk, row.command); !strings.Contains(got, row.want) {
			t.Errorf("%s says %q; want %q in it", row.command, got, row.want)
		}
	}
}

// The same archive gives the same bytes: a disk can be compared, and shared.
func TestFromTarIsReproducible(t *testing.T) {
	t.Parallel()
	var disks [2][]byte
	for i := range disks {
		var err error
		if disks[i], err = os.ReadFile(makeDisk(t, archive(t, everything()...))); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(disks[0], disks[1]) {
		t.Error("two disks of one archive differ")
	}
}

// An empty archive is a root with nothing in it: probes boot it.
func TestFromTarEmpty(t *testing.T) {
	t.Parallel()
	disk := makeDisk(t, archive(t))
	fsck(t, disk)
	if info, err := os.Stat(disk); err != nil || info.Size() > 4<<20 {
		t.Errorf("an empty disk has %d bytes, %v", info.Size(), err)
	}
}

// As many files as the largest images have.
func TestFromTarManyFiles(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	t.Parallel()
	r, w := io.Pipe()
	go func() {
		out := tar.NewWriter(w)
		for i := range manyFiles {
			name := filepath.Join("d", string(rune('a'+i%20)), string(rune('a'+i/20%20)), time.Duration(i).String())
			if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: 1}); err != nil {
				w.CloseWithError(err)
				return
			}
			io.WriteString(out, "x")
		}
		w.CloseWithError(out.Close())
	}()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	begun := time.Now()
	if err := FromTar(r, f); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d files took %v", manyFiles, time.Since(begun))
	fsck(t, f.Name())
}

// A damaged archive is an error, not half a disk.
func TestFromTarErrors(t *testing.T) {
	t.Parallel()
	whole := archive(t, everything()...)
	for _, row := range []struct {
		name string
		text []byte
	}{
		{"cut off", whole[:len(whole)-1024-512-100]},
		{"no archive", bytes.Repeat([]byte("x"), 1024)},
		{"link to nothing", archive(t, tar.Header{Typeflag: tar.TypeLink, Name: "a", Linkname: "b"})},
		{"file below a file", archive(t, tar.Header{Typeflag: tar.TypeReg, Name: "a"}, tar.Header{Typeflag: tar.TypeReg, Name: "a/b"})},
	} {
		f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := FromTar(bytes.NewReader(row.text), f); err == nil {
			t.Errorf("%s: no error", row.name)
		}
	}
}

// A root is made once from an image in the cache, and stays with it.
func TestRoot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	archived := filepath.Join(dir, "image.tar")
	if err := os.WriteFile(archived, dockerArchive(t, archive(t, everything()...)), 0o600); err != nil {
		t.Fatal(err)
	}
	store, err := image.Open(image.Config{Dir: filepath.Join(dir, "cache"), Offline: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Import(t.Context(), "test", archived); err != nil {
		t.Fatal(err)
	}
	i, err := store.Get(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if path, err := Root(cancelled, i); !errors.Is(err, context.Canceled) {
		t.Errorf("Root, cancelled = %q, %v", path, err)
	}
	path, err := Root(t.Context(), i)
	if err != nil {
		t.Fatal(err)
	}
	fsck(t, path)
	if got := debugfs(t, path, "stat /big-ids"); !strings.Contains(got, "User: -1294967296") {
		t.Errorf("the disk lacks an owner: %s", got)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Root(t.Context(), i)
	if err != nil || again != path {
		t.Errorf("a second Root = %q, %v; want %q", again, err, path)
	}
	if after, err := os.Stat(again); err != nil || !os.SameFile(before, after) {
		t.Errorf("the disk was made again, %v", err)
	}
}

// dockerArchive returns what "docker save" writes of an image with one layer.
func dockerArchive(t testing.TB, layer []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range []struct {
		name    string
		content []byte
	}{
		{"manifest.json", []byte(`[{"Config":"config.json","RepoTags":["test:latest"],"Layers":["layer.tar"]}]`)},
		{"config.json", []byte(configOf(layer))},
		{"layer.tar", layer},
	} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: 0o644, Size: int64(len(f.content))}); err != nil {
			t.Fatal(err)
		}
		w.Write(f.content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// configOf returns the configuration of an image with one layer.
func configOf(layer []byte) string {
	return fmt.Sprintf(`{"architecture":%q,"os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:%x"]},"config":{}}`,
		runtime.GOARCH, sha256.Sum256(layer))
}
