package machine

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode"
)

// follow returns all that Follow tells.
func follow(r io.Reader) (all []Status, err error) {
	err = Follow(r, func(s Status) { all = append(all, s) })
	return all, err
}

// What process 1 writes the host reads.
func TestFollow(t *testing.T) {
	t.Parallel()
	text := readyLine(1200*time.Millisecond, 80*time.Millisecond) + failedLine(errors.New("read\nfrom \x1b host")) + exitLine(125)
	all, err := follow(iotest.OneByteReader(strings.NewReader(text)))
	if err != nil || len(all) != 3 {
		t.Fatalf("Follow told %+v, %v", all, err)
	}
	want := Status{Ready: true, Kernel: 1200 * time.Millisecond, Setup: 80 * time.Millisecond}
	if all[0] != want {
		t.Errorf("first %+v; want %+v", all[0], want)
	}
	want.Failure = "read; from ? host"
	if all[1] != want {
		t.Errorf("then %+v; want %+v", all[1], want)
	}
	want.Exited, want.Exit = true, 125
	if all[2] != want {
		t.Errorf("last %+v; want %+v", all[2], want)
	}
}

func TestFollowNonsense(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"hello\n", "\n", "ready\n", "ready 1s\n", "ready 1s soon\n", "ready -1s 1s\n", "exit\n", "exit -1\n", "exit 256\n", "exit 1 2\n",
		strings.Repeat("x", maxStatusLine+1), strings.Repeat("failed x\n", maxStatusLines+1),
	} {
		if all, err := follow(strings.NewReader(text)); err == nil {
			t.Errorf("Follow(%.40q) told %+v and no error", text, all)
		}
	}
	if _, err := follow(strings.NewReader("")); err != nil {
		t.Errorf("Follow of nothing: %v", err)
	}
	broken := errors.New("broken")
	if _, err := follow(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("Follow of a broken port: %v", err)
	}
}

// The longest error still fits into a line.
func TestFailedLine(t *testing.T) {
	t.Parallel()
	line := failedLine(errors.New(strings.Repeat("é\n", 10_000)))
	all, err := follow(strings.NewReader(line))
	if err != nil || len(all) != 1 || all[0].Failure == "" {
		t.Errorf("Follow told %d, %v", len(all), err)
	}
}

// Whatever comes, what is told is fit for a terminal, and no more than so much.
func FuzzFollow(f *testing.F) {
	f.Add("ready 1s 2ms\nexit 0\n")
	f.Add("failed \x1b[2J\n")
	f.Fuzz(func(t *testing.T, text string) {
		all, _ := follow(strings.NewReader(text))
		if len(all) > maxStatusLines {
			t.Errorf("told %d times", len(all))
		}
		for _, s := range all {
			if strings.ContainsFunc(s.Failure, func(r rune) bool { return !unicode.IsPrint(r) }) || s.Exit < 0 || s.Exit > 255 || s.Kernel < 0 || s.Setup < 0 {
				t.Errorf("told %+v", s)
			}
		}
	})
}
