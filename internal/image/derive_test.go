package image

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

// A derived file is made once, whoever asks, and goes with its image.
func TestDerive(t *testing.T) {
	t.Parallel()
	hub, store := newHub(t), newStore(t, testConfig(t))
	ref := hub.push(t, "image:1", imageOf(t, layer(t, file("f", "x"))))
	img := mustPull(t, store, ref, PullOptions{})
	var made atomic.Int32
	write := func(_ context.Context, f *os.File) error {
		made.Add(1)
		_, err := f.WriteString("disk")
		return err
	}
	paths := make([]string, 8)
	var callers sync.WaitGroup
	for i := range paths {
		callers.Go(func() {
			var err error
			if paths[i], err = img.Derive(t.Context(), "disk", write); err != nil {
				t.Error(err)
			}
		})
	}
	callers.Wait()
	if n := made.Load(); n != 1 {
		t.Errorf("it was made %d times", n)
	}
	for _, path := range paths {
		if text, err := os.ReadFile(path); path != paths[0] || err != nil || string(text) != "disk" {
			t.Errorf("Derive = %q with %q, %v", path, text, err)
		}
	}
	entries, err := filepath.Glob(filepath.Dir(img.RootDir) + "/*.new")
	if err != nil || len(entries) != 0 {
		t.Errorf("left behind: %q, %v", entries, err)
	}
	img.Close()
	if err := store.Remove(ref, false); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(paths[0]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file outlives its image: %v", err)
	}
}

// What fails leaves nothing; what a killed process left is begun anew.
func TestDeriveFailure(t *testing.T) {
	t.Parallel()
	_, img := mustUnpack(t, layer(t, file("f", "x")))
	broken := errors.New("broken")
	path, err := img.Derive(t.Context(), "disk", func(_ context.Context, f *os.File) error {
		f.WriteString("half")
		return broken
	})
	if path != "" || !errors.Is(err, broken) {
		t.Errorf("Derive = %q, %v; want the maker's error", path, err)
	}
	names, err := os.ReadDir(filepath.Dir(img.RootDir))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if n.Name() == "disk" || n.Name() == "disk.new" {
			t.Errorf("%s is left", n.Name())
		}
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(img.RootDir), "disk.new"), []byte("half a disk of a process that was killed"), 0o600); err != nil {
		t.Fatal(err)
	}
	path, err = img.Derive(t.Context(), "disk", func(_ context.Context, f *os.File) error {
		_, err := f.WriteString("whole")
		return err
	})
	if text, _ := os.ReadFile(path); err != nil || string(text) != "whole" {
		t.Errorf("Derive = %q, %v", text, err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	held, err := lockAt(t.Context(), filepath.Join(filepath.Dir(img.RootDir), "other.new"), exclusive, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer held.release()
	if _, err := img.Derive(cancelled, "other", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Derive while another makes it, cancelled: %v", err)
	}
}
