package image

import (
	"archive/tar"
	"fmt"
	"slices"
	"testing"
)

// TestSweepOnce shows that whiteouts that a layer repeats cost nothing: what was
// swept once is not looked at again.
func TestSweepOnce(t *testing.T) {
	t.Parallel()
	root := newTree()
	d := root.add("d", implicitDir(), 1)
	for i := range 10 {
		d.add(fmt.Sprint("lower", i), &inode{kind: tar.TypeReg}, 1)
	}
	d.add("own", &inode{kind: tar.TypeReg}, 2)
	visits := 0
	visit := func(*node) error { visits++; return nil }
	for range 3 {
		if err := root.sweepChildren(2, visit); err != nil {
			t.Fatal(err)
		}
		if err := d.sweep(2, visit); err != nil {
			t.Fatal(err)
		}
	}
	if visits != 10 || len(d.children) != 1 {
		t.Errorf("%d removals, and %d names are left; want 10 and 1", visits, len(d.children))
	}
	// Had anybody looked again, this would be gone.
	d.children["own"].wrote, d.children["own"].below = 1, 1
	if err := root.sweepChildren(2, visit); err != nil {
		t.Fatal(err)
	}
	if visits != 10 {
		t.Error("what was swept was looked at again")
	}
}

func TestTreePaths(t *testing.T) {
	t.Parallel()
	root := newTree()
	a := root.add("a", implicitDir(), 1)
	b := a.add("b", implicitDir(), 1)
	other := root.add("ab", implicitDir(), 1)
	var walked []string
	if err := root.walk(func(n *node) error { walked = append(walked, n.path()); return nil }); err != nil {
		t.Fatal(err)
	}
	if want := []string{".", "a", "a/b", "ab"}; !slices.Equal(walked, want) {
		t.Errorf("walked %q, want %q", walked, want)
	}
	if !b.isBelow(a) || !b.isBelow(b) || !b.isBelow(root) || a.isBelow(b) || other.isBelow(a) {
		t.Error("isBelow is wrong")
	}
	if b.depth != 2 || b.pathLen != len("/a/b") {
		t.Errorf("depth %d, length %d", b.depth, b.pathLen)
	}
}
