package image

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// pullRole is argv[0] of a process that pulls an image: see pullMain.
const pullRole = "image-test:pull"

// A child is a process that pulls an image into a cache, and holds it until its
// standard input ends.
type child struct {
	cmd   *exec.Cmd
	stdin io.Closer
	lines *bufio.Scanner // what pullMain writes
}

// startPull starts a child. It is killed with the test.
func startPull(t *testing.T, dir, ref string) *child {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Args = []string{pullRole, dir, ref}
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{cmd, stdin, bufio.NewScanner(stdout)}
	t.Cleanup(c.kill)
	return c
}

// kill ends the child at once, by kill -9, and waits for it. It is idempotent.
func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

// wait returns the root directory when the child has it.
func (c *child) wait(t *testing.T) string {
	t.Helper()
	for c.lines.Scan() {
		if root, ok := strings.CutPrefix(c.lines.Text(), "root "); ok {
			return root
		}
	}
	t.Fatal("the child failed")
	return ""
}

// end lets the child end, and waits.
func (c *child) end(t *testing.T) {
	t.Helper()
	c.stdin.Close()
	if err := c.cmd.Wait(); err != nil {
		t.Errorf("the child: %v", err)
	}
}

// pullMain is a child: it writes "event ..." for every event and "root DIR" when
// it has the image.
func pullMain() {
	s, err := Open(Config{Dir: os.Args[1], Keychain: authn.NewMultiKeychain(), Progress: func(e Event) {
		text, _ := json.Marshal(e)
		fmt.Printf("event %s\n", text)
	}})
	var img *Image
	if err == nil {
		img, err = s.Pull(context.Background(), os.Args[2], PullOptions{})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("root %s\n", img.RootDir)
	_, _ = io.Copy(io.Discard, os.Stdin)
	if err := img.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// manyFiles returns an image that takes a while to pull: three layers with files
// of all sizes, and directories that keep their owner out.
func manyFiles(t testing.TB) v1.Image {
	t.Helper()
	var layers [][]byte
	for l := range 3 {
		entries := []entry{dir(fmt.Sprintf("l%d", l)), file(fmt.Sprintf("l%d/big", l), randomText((l+1)<<20))}
		for i := range 100 {
			entries = append(entries, dir(fmt.Sprintf("l%d/d%d", l, i%20)).mode(0o555), file(fmt.Sprintf("l%d/d%d/f%d", l, i%20, i), randomText(i)))
		}
		layers = append(layers, layer(t, entries...))
	}
	return imageOf(t, layers...)
}

// TestKill kills a process at each of its steps, after which the cache is as good
// as new: nothing half is seen, nothing is left, and a pull works.
func TestKill(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	ref := h.push(t, "r:1", manyFiles(t))
	want := tarOf(t, mustPull(t, newStore(t, testConfig(t)), ref, PullOptions{}))
	killed := make(map[EventKind]int)
	for step, finished := 1, false; !finished; step++ {
		cfg := testConfig(t)
		c := startPull(t, cfg.Dir, ref)
		var last Event
		for n := 0; n < step && !finished; n++ { // events may be fewer this time
			if !c.lines.Scan() {
				t.Fatal("the child failed")
			}
			text, ok := strings.CutPrefix(c.lines.Text(), "event ")
			if ok {
				if err := json.Unmarshal([]byte(text), &last); err != nil {
					t.Fatal(err)
				}
			}
			finished = !ok || last.Kind == Finished
		}
		c.kill()
		killed[last.Kind]++

		cfg.Offline = true
		s := newStore(t, cfg)
		if img, err := s.Pull(t.Context(), ref, PullOptions{}); err == nil {
			// It had come so far that it has a name: then it is whole.
			if !bytes.Equal(tarOf(t, img), want) {
				t.Errorf("killed at %+v: the cache has another image", last)
			}
			img.Close()
		} else if !errors.Is(err, ErrNotFound) {
			t.Errorf("killed at %+v: %v", last, err)
		}
		cfg.Offline = false
		s = newStore(t, cfg)
		img, err := s.Pull(t.Context(), ref, PullOptions{})
		if err != nil {
			t.Fatalf("killed at %+v: %v", last, err)
		}
		if !bytes.Equal(tarOf(t, img), want) {
			t.Errorf("killed at %+v: then another image came", last)
		}
		img.Close()
		if _, err := s.Prune(t.Context(), false); err != nil {
			t.Error(err)
		}
		checkClean(t, s, 1, 1, 5)
	}
	t.Logf("killed at %v", killed)
	for _, kind := range []EventKind{Resolving, Downloading, Unpacking} {
		if killed[kind] == 0 {
			t.Errorf("no process was killed while %s", kind)
		}
	}
}

// TestKillHolder shows that a process that holds an image keeps it, and that its
// death lets it go.
func TestKillHolder(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	ref := h.push(t, "r:1", oneFile(t, "x"))
	cfg := testConfig(t)
	c := startPull(t, cfg.Dir, ref)
	c.wait(t)
	s := newStore(t, cfg)
	if err := s.Remove(ref, false); !errors.Is(err, ErrInUse) {
		t.Errorf("while it is held: %v", err)
	}
	if _, err := s.Prune(t.Context(), true); err != nil {
		t.Error(err)
	}
	checkClean(t, s, 1, 1, 3)
	c.kill()
	if err := s.Remove(ref, false); err != nil {
		t.Errorf("when its holder is dead: %v", err)
	}
	checkClean(t, s, 0, 0, 0)
}

// TestTwoProcesses shows that two processes that pull the same image at once
// share one download and one root.
func TestTwoProcesses(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	img := manyFiles(t)
	ref := h.push(t, "r:1", img)
	cfg := testConfig(t)
	a, b := startPull(t, cfg.Dir, ref), startPull(t, cfg.Dir, ref)
	if x, y := a.wait(t), b.wait(t); x != y {
		t.Errorf("roots %q and %q", x, y)
	}
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	requests := strings.Join(h.requests, "\n") + "\n"
	h.mu.Unlock()
	for _, l := range m.Layers {
		if n := strings.Count(requests, "GET /v2/r/blobs/"+l.Digest.String()+"\n"); n != 1 {
			t.Errorf("the layer %v came %d times", l.Digest, n)
		}
	}
	a.end(t)
	b.end(t)
	checkClean(t, newStore(t, cfg), 1, 1, 5)
}
