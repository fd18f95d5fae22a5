package sdk_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	m "github.com/sluicenet/sluice/sdk"
)

// TestFS checks the guest's files, verb by verb.
func TestFS(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	f := running(t, "fs", m.WithNetwork(m.NetworkPolicy.None())).FS()
	if err := f.Mkdir(ctx, "/tmp/a/b"); err != nil {
		t.Fatal(err)
	}
	if err := f.Mkdir(ctx, "/tmp/a/b"); err != nil {
		t.Errorf("make it again: %v", err)
	}
	if err := f.WriteString(ctx, "/tmp/a/text", "first and longer"); err != nil {
		t.Fatal(err)
	}
	if err := f.Write(ctx, "/tmp/a/text", []byte("second")); err != nil {
		t.Fatal(err)
	}
	if text, err := f.ReadString(ctx, "/tmp/a/text"); text != "second" || err != nil {
		t.Errorf("read %q, %v", text, err)
	}
	if err := f.Copy(ctx, "/tmp/a/text", "/tmp/a/copy"); err != nil {
		t.Error(err)
	}
	if err := f.Copy(ctx, "/tmp/a/text", "/tmp/a/../a/text"); err == nil {
		t.Error("a file was copied to itself")
	}
	if err := f.Rename(ctx, "/tmp/a/copy", "/tmp/a/b/renamed"); err != nil {
		t.Error(err)
	}
	if text, err := f.Read(ctx, "/tmp/a/b/renamed"); string(text) != "second" || err != nil {
		t.Errorf("read %q, %v", text, err)
	}
	st, err := f.Stat(ctx, "/tmp/a/text")
	if err != nil || st.Path != "/tmp/a/text" || st.Size != 6 || st.IsDir || st.Mode == 0 || st.ModTime.IsZero() {
		t.Errorf("stat %+v, %v", st, err)
	}
	entries, err := f.List(ctx, "/tmp/a")
	if err != nil || len(entries) != 2 || entries[0].Path != "/tmp/a/b" || entries[0].Kind != m.FsEntryKindDirectory ||
		entries[1].Path != "/tmp/a/text" || entries[1].Kind != m.FsEntryKindFile || entries[1].Size != 6 {
		t.Errorf("list %+v, %v", entries, err)
	}
	if ok, err := f.Exists(ctx, "/tmp/a/text"); !ok || err != nil {
		t.Errorf("exists: %v, %v", ok, err)
	}
	if ok, err := f.Exists(ctx, "/tmp/none"); ok || err != nil {
		t.Errorf("what isn't there exists: %v, %v", ok, err)
	}
	if err := f.Remove(ctx, "/tmp/a/text"); err != nil {
		t.Error(err)
	}
	if err := f.RemoveDir(ctx, "/tmp/a"); err != nil {
		t.Error(err)
	}
	if ok, err := f.Exists(ctx, "/tmp/a"); ok || err != nil {
		t.Errorf("what was removed exists: %v, %v", ok, err)
	}
}

// TestFSErrors checks the kinds of errors about files.
func TestFSErrors(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	f := running(t, "fs-errors", m.WithNetwork(m.NetworkPolicy.None())).FS()
	if err := f.WriteString(ctx, "/tmp/file", "x"); err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	_, readErr := f.Read(ctx, "/tmp/none")
	_, listErr := f.List(ctx, "/tmp/none")
	_, ctxErr := f.Read(cancelled, "/tmp/file")
	_, openErr := f.ReadStream(ctx, "/tmp/none")
	_, largeErr := f.Read(ctx, "/dev/zero")
	for name, tt := range map[string]struct {
		err  error
		kind m.ErrorKind
		is   error
	}{
		"read nothing":         {readErr, m.ErrPathNotFound, fs.ErrNotExist},
		"list nothing":         {listErr, m.ErrPathNotFound, fs.ErrNotExist},
		"open nothing":         {openErr, m.ErrPathNotFound, fs.ErrNotExist},
		"write below a file":   {f.WriteString(ctx, "/tmp/file/x", ""), m.ErrFilesystem, nil},
		"remove a directory":   {f.Remove(ctx, "/tmp"), m.ErrFilesystem, nil},
		"remove a file as one": {f.RemoveDir(ctx, "/tmp/file"), m.ErrFilesystem, nil},
		"copy a directory":     {f.Copy(ctx, "/tmp", "/tmp/copy"), m.ErrFilesystem, nil},
		"cancelled":            {ctxErr, m.ErrCancelled, context.Canceled},
		"without an end":       {largeErr, m.ErrFilesystem, nil},
		"no path":              {f.Mkdir(ctx, ""), m.ErrInvalidArgument, nil},
		"host has nothing":     {f.CopyFromHost(ctx, "/none", "/tmp/x"), m.ErrPathNotFound, fs.ErrNotExist},
		"host has no place":    {f.CopyToHost(ctx, "/tmp/file", "/none/x"), m.ErrPathNotFound, fs.ErrNotExist},
	} {
		if !m.IsKind(tt.err, tt.kind) || tt.is != nil && !errors.Is(tt.err, tt.is) {
			t.Errorf("%s: %v, want %v", name, tt.err, tt.kind)
		}
	}
}

// TestFSCopy checks trees and large files, both ways.
func TestFSCopy(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	f := running(t, "fs-copy", m.WithNetwork(m.NetworkPolicy.None())).FS()
	src, dst := filepath.Join(t.TempDir(), "src"), filepath.Join(t.TempDir(), "dst")
	big := make([]byte, 8<<20+13)
	rand.NewChaCha8([32]byte{}).Read(big)
	for _, err := range []error{
		os.MkdirAll(filepath.Join(src, "sub", "empty"), 0o755),
		os.WriteFile(filepath.Join(src, "big"), big, 0o640),
		os.WriteFile(filepath.Join(src, "sub", "program"), []byte("#!/bin/sh\n"), 0o755),
		os.Symlink("../big", filepath.Join(src, "sub", "link")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := f.CopyFromHost(ctx, src, "/tmp/tree"); err != nil {
		t.Fatal(err)
	}
	if st, err := f.Stat(ctx, "/tmp/tree/sub/program"); err != nil || st.Mode != 0o755 {
		t.Errorf("the program is %+v, %v", st, err)
	}
	for range 2 { // the second time over the first
		if err := f.CopyToHost(ctx, "/tmp/tree", dst); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(filepath.Join(dst, "sub", "link"))
	if err != nil || sha256.Sum256(got) != sha256.Sum256(big) {
		t.Errorf("what came back differs: %d bytes, want %d: %v", len(got), len(big), err)
	}
	if info, err := os.Stat(filepath.Join(dst, "big")); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the file is %v, %v", info, err)
	}
	if info, err := os.Stat(filepath.Join(dst, "sub", "empty")); err != nil || !info.IsDir() {
		t.Errorf("the empty directory is %v, %v", info, err)
	}
	one := filepath.Join(dst, "one")
	copied := 0
	told := f.WithProgress(func(n int) { copied += n })
	if err := told.CopyToHost(ctx, "/tmp/tree/big", one); err != nil || copied != len(big) {
		t.Fatalf("%d of %d bytes copied: %v", copied, len(big), err)
	}
	if err := told.CopyFromHost(ctx, one, "/tmp/one"); err != nil || copied != 2*len(big) {
		t.Fatalf("%d of %d bytes copied, there and back: %v", copied, 2*len(big), err)
	}
	if got, err := os.ReadFile(one); err != nil || !bytes.Equal(got, big) {
		t.Errorf("one file differs: %d bytes: %v", len(got), err)
	}
}

// TestFSHostile checks that a guest's links don't lead what is copied to the host
// out of its place.
func TestFSHostile(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	sb := running(t, "fs-hostile", m.WithNetwork(m.NetworkPolicy.None()))
	outside, dst := t.TempDir(), filepath.Join(t.TempDir(), "dst")
	out, err := sb.Shell(ctx, "mkdir -p /tmp/h/d && ln -s "+outside+" /tmp/h/d/a && mkdir /tmp/h/e /tmp/h/e/a && echo x > /tmp/h/e/a/evil")
	if err != nil || !out.Success() {
		t.Fatalf("%v, %v", out, err)
	}
	if err := sb.FS().CopyToHost(ctx, "/tmp/h/d", dst); err != nil { // a is a link now
		t.Fatal(err)
	}
	if err := sb.FS().CopyToHost(ctx, "/tmp/h/e", dst); err == nil { // and a directory
		t.Error("a link was followed out of the destination")
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 0 {
		t.Errorf("outside are %v, %v", entries, err)
	}
}

// TestFSStreams checks files piece by piece.
func TestFSStreams(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	f := running(t, "fs-streams", m.WithNetwork(m.NetworkPolicy.None())).FS()
	w, err := f.WriteStream(ctx, "/tmp/stream")
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Repeat("x", 99) + "\n"
	for range 500 {
		if _, err := io.WriteString(w, line); err != nil {
			t.Fatal(err)
		}
		if err := w.WriteCtx(ctx, []byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := w.Close(ctx); err != nil {
			t.Error(err)
		}
	}
	r, err := f.ReadStream(ctx, "/tmp/stream")
	if err != nil {
		t.Fatal(err)
	}
	first, err := r.Recv(ctx)
	if err != nil || len(first) == 0 {
		t.Fatalf("%d bytes, %v", len(first), err)
	}
	var rest bytes.Buffer
	if n, err := r.CopyTo(ctx, &rest); err != nil || len(first)+int(n) != 100_000 || rest.Len() != int(n) {
		t.Errorf("%d and %d bytes, %v", len(first), n, err)
	}
	if p, err := r.Recv(ctx); p != nil || err != nil {
		t.Errorf("behind the end: %d bytes, %v", len(p), err)
	}
	for range 2 {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	whole, err := f.ReadStream(ctx, "/tmp/stream")
	if err != nil {
		t.Fatal(err)
	}
	defer whole.Close()
	if n, err := whole.WriteTo(io.Discard); n != 100_000 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	endless, err := f.ReadStream(ctx, "/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	defer endless.Close()
	short, cancel := context.WithCancel(ctx)
	if _, err := endless.CopyTo(short, writerFunc(func(p []byte) (int, error) { cancel(); return len(p), nil })); !m.IsKind(err, m.ErrCancelled) {
		t.Errorf("an endless file: %v", err)
	}
}

// A writerFunc is a function that is an io.Writer.
type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
