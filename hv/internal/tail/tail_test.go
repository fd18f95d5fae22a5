package tail_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"unicode"

	"github.com/sluicenet/sluice/hv/internal/tail"
)

func TestLast(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		text string
		n    int
		want string
	}{
		{"", 2, ""},
		{"one\n", 2, "one"},
		{"one\ntwo\r\nthree", 2, "two; three"},
		{"one\ntwo\r\nthree", 1, "three"},
		{"one\n\n  \n\n", 2, "one"},
		{"10%\r20%\r30%\r", 1, "30%"},
		{"\x1b[31mred\x1b[0m\a", 1, "[31mred[0m"},
		{"tab\tand\vmore\v", 1, "tab and more"},
		{"\xff\xfebytes", 1, "bytes"},
		{"title\x9b\u202egnp.exe", 1, "titlegnp.exe"},
		{"one\n\x00\x1b\x07\n", 1, "one"},
		{strings.Repeat("x", 1000), 1, strings.Repeat("x", 300)},
		{strings.Repeat("x", 299) + "é", 1, strings.Repeat("x", 299)},
		{"[1.0] Kernel panic - not syncing: no init\n[1.1] CPU: 0\n[1.2] trace\n", 2, "[1.0] Kernel panic - not syncing: no init"},
		{"Kernel panic" + strings.Repeat("\nword", 8<<10), 2, "word; word"}, // it is long ago
	} {
		var got tail.Tail
		got.Drain(iotest.OneByteReader(strings.NewReader(row.text)), nil)
		if last := got.Last(row.n); last != row.want {
			t.Errorf("Last(%d) of %.80q = %q; want %q", row.n, row.text, last, row.want)
		}
	}
}

// However much comes, and in whatever pieces, the end is what is kept.
func TestTailIsBounded(t *testing.T) {
	t.Parallel()
	for _, piece := range []int{1, 100, 16 << 10, 16<<10 + 1, 1 << 20} {
		var got tail.Tail
		for range (1 << 20) / piece {
			if n, err := got.Write(bytes.Repeat([]byte("x"), piece)); n != piece || err != nil {
				t.Fatalf("Write of %d = %d, %v", piece, n, err)
			}
		}
		fmt.Fprint(&got, "\nlast")
		if last := got.Last(1); last != "last" {
			t.Errorf("pieces of %d: the last line is %q", piece, last)
		}
		const line = "\nas long as this"
		fmt.Fprint(&got, strings.Repeat(line, 1000))
		if first := got.Last(1001); !strings.HasPrefix(first, "last; as long") {
			t.Errorf("pieces of %d: 16 KB later the line is gone: %.40q", piece, first)
		}
		fmt.Fprint(&got, strings.Repeat(line, 1200))
		if all := got.Last(1 << 30); strings.Contains(all, "last") {
			t.Errorf("pieces of %d: the line is kept for ever", piece)
		}
	}
}

// A console that can't be written to is read all the same.
func TestDrainGoesOn(t *testing.T) {
	t.Parallel()
	also := &failing{after: 1}
	var got tail.Tail
	got.Drain(io.MultiReader(strings.NewReader("first\n"), strings.NewReader("second\n"), strings.NewReader("third\n")), also)
	if also.text.String() != "first\n" || also.calls != 2 {
		t.Errorf("the writer has %q after %d calls; want it called no more once it failed", &also.text, also.calls)
	}
	if last := got.Last(3); last != "first; second; third" {
		t.Errorf("kept %q", last)
	}
	got.Drain(iotest.DataErrReader(strings.NewReader("last, with the error\n")), nil)
	if last := got.Last(1); last != "last, with the error" {
		t.Errorf("kept %q", last)
	}
}

// A failing writer fails after so many calls.
type failing struct {
	after, calls int
	text         bytes.Buffer
}

func (f *failing) Write(b []byte) (int, error) {
	if f.calls++; f.calls > f.after {
		return 0, errors.New("full")
	}
	return f.text.Write(b)
}

// Who asks why a guest doesn't come up does so while it prints.
func TestLastWhileItIsDrained(t *testing.T) {
	t.Parallel()
	var got tail.Tail
	var wg sync.WaitGroup
	wg.Go(func() { got.Drain(iotest.HalfReader(strings.NewReader(strings.Repeat("line\n", 20<<10))), nil) })
	for range 100 {
		if last := got.Last(1); !strings.HasPrefix("line", last) {
			t.Errorf("the last line is %q", last)
		}
	}
	wg.Wait()
}

// A write that is longer than what is kept leaves nothing of what was before: there
// would be a gap between.
func TestTailHasNoGap(t *testing.T) {
	t.Parallel()
	var got tail.Tail
	fmt.Fprintln(&got, "before")
	fmt.Fprint(&got, strings.Repeat("\n", 16<<10)+"\nafter")
	if last := got.Last(2); last != "after" {
		t.Errorf("kept %q", last)
	}
}

func FuzzLast(f *testing.F) {
	f.Add([]byte("one\ntwo\r\n\x1b[2J"), 2)
	f.Add([]byte("Kernel panic\xff"), 1)
	f.Fuzz(func(t *testing.T, text []byte, n int) {
		n = min(max(n, 0), 8)
		var got tail.Tail
		got.Write(text)
		last := got.Last(n)
		if len(last) > max(n, 1)*(300+len("; ")) {
			t.Errorf("%d lines have %d bytes", n, len(last))
		}
		for _, r := range last {
			if !unicode.IsPrint(r) {
				t.Errorf("%q has %q", last, r)
			}
		}
	})
}
