package netlab

import (
	"context"
	"testing"
)

func TestShell(t *testing.T) {
	t.Parallel()
	s, err := StartShell(t.Context(), "sh")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		line, out string
		code      int
	}{
		{"echo hello", "hello", 0},
		{"printf 'no end of line'", "no end of line", 0},
		{"echo one; echo two", "one\ntwo", 0},
		{"false", "", 1},
		{"exit 7", "", 7},
		{"cat", "", 0}, // doesn't eat the next command
		{"kill -9 $$; true", "", -1},
	} {
		out, code, err := s.Run(row.line)
		if row.code < 0 {
			if err == nil {
				t.Errorf("%s: no error", row.line)
			}
			break
		}
		if out != row.out || code != row.code || err != nil {
			t.Errorf("%s: %q, %d, %v, want %q, %d", row.line, out, code, err, row.out, row.code)
		}
	}
	if err := s.Close(); err == nil {
		t.Error("Close of a shell that was killed: no error")
	}
}

func TestShellStderrAndClose(t *testing.T) {
	t.Parallel()
	s, err := StartShell(t.Context(), "sh")
	if err != nil {
		t.Fatal(err)
	}
	if _, code, err := s.Run("echo oops >&2; exit 3"); code != 3 || err != nil {
		t.Error(code, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if got := s.Stderr(); got != "oops\n" {
		t.Errorf("standard error %q, want %q", got, "oops\n")
	}
}

func TestShellFails(t *testing.T) {
	t.Parallel()
	for _, argv := range [][]string{{"false"}, {"/no/such/program"}} {
		if _, err := StartShell(context.Background(), argv...); err == nil {
			t.Errorf("%q: no error", argv)
		}
	}
}
