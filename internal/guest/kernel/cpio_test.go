package kernel

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
	"testing"
)

// A cpioEntry is what a reader finds.
type cpioEntry struct {
	mode, major, minor uint64
	content            string
}

// readCPIO reads an archive as the kernel's init/initramfs.c does: fields of eight
// digits, names and contents padded to four bytes.
func readCPIO(t *testing.T, b []byte) map[string]cpioEntry {
	t.Helper()
	entries := make(map[string]cpioEntry)
	inodes := make(map[uint64]bool)
	align := func(n int) int { return (n + 3) &^ 3 }
	for at := 0; ; {
		h := b[at:]
		if len(h) < 110 || string(h[:6]) != "070701" {
			t.Fatalf("no header at %d", at)
		}
		field := func(i int) uint64 {
			n, err := strconv.ParseUint(string(h[6+8*i:14+8*i]), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		nameEnd := at + 110 + int(field(11))
		name := string(b[at+110 : nameEnd-1])
		if b[nameEnd-1] != 0 {
			t.Fatalf("name %q doesn't end", name)
		}
		if name == "TRAILER!!!" {
			if rest := b[align(nameEnd):]; len(rest) != 0 {
				t.Errorf("%d bytes behind the end", len(rest))
			}
			return entries
		}
		if inodes[field(0)] {
			t.Errorf("%q has another's inode", name) // would be a hard link
		}
		inodes[field(0)] = true
		body := align(nameEnd)
		size := int(field(6))
		entries[name] = cpioEntry{mode: field(1), major: field(9), minor: field(10), content: string(b[body : body+size])}
		at = align(body + size)
	}
}

func TestCPIO(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	c := &cpioWriter{w: &b}
	c.directory("dev", 0o755)
	c.device("dev/console", 0o600, 5, 1)
	want := map[string]cpioEntry{"dev": {mode: 0o040755}, "dev/console": {mode: 0o020600, major: 5, minor: 1}}
	for n := range 9 { // each remainder of a name's and a content's length
		name, content := "f"+strings.Repeat("x", n), strings.Repeat("c", n)
		c.file(name, 0o644, strings.NewReader(content), int64(n))
		want[name] = cpioEntry{mode: 0o100644, content: content}
	}
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	got := readCPIO(t, b.Bytes())
	if len(got) != len(want) {
		t.Errorf("%d entries; want %d", len(got), len(want))
	}
	for name, entry := range want {
		if got[name] != entry {
			t.Errorf("%q is %+v; want %+v", name, got[name], entry)
		}
	}
	if b.Len()%4 != 0 {
		t.Errorf("archive has %d bytes; two of them could not be joined", b.Len())
	}
}

// The first error is the one that is told, and ends the writing.
func TestCPIOErrors(t *testing.T) {
	t.Parallel()
	full := errors.New("full")
	for limit := range 400 {
		w := &limitedWriter{left: limit, err: full}
		c := &cpioWriter{w: w}
		c.file("file", 0o644, strings.NewReader("content"), 7)
		c.directory("dir", 0o755)
		if err := c.close(); limit < 360 && !errors.Is(err, full) {
			t.Errorf("after %d bytes: %v", limit, err)
		}
	}
	c := &cpioWriter{w: io.Discard}
	c.file("short", 0o644, strings.NewReader("content"), 8)
	if err := c.close(); !errors.Is(err, io.EOF) {
		t.Errorf("a file that is shorter than its size: %v", err)
	}
	c = &cpioWriter{w: io.Discard}
	c.file("large", 0o644, strings.NewReader(""), 1<<32)
	if err := c.close(); err == nil {
		t.Error("a file of 4 GiB has no error")
	}
}

// A limitedWriter takes so many bytes.
type limitedWriter struct {
	left int
	err  error
}

func (w *limitedWriter) Write(b []byte) (int, error) {
	if len(b) > w.left {
		return 0, w.err
	}
	w.left -= len(b)
	return len(b), nil
}
