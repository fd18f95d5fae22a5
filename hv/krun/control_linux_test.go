package krun

import (
	"encoding/json"
	"errors"
	"io/fs"
	"strings"
	"syscall"
	"testing"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/hv"
)

// An error that crosses from the machine's process keeps what callers act on.
func TestFailureKeepsItsKind(t *testing.T) {
	t.Parallel()
	across := func(err error) error {
		text, jsonErr := json.Marshal(report{Failure: failureOf(err)})
		if jsonErr != nil {
			t.Fatal(jsonErr)
		}
		var r report
		if jsonErr := json.Unmarshal(text, &r); jsonErr != nil {
			t.Fatal(jsonErr)
		}
		return r.Failure.err()
	}
	err := across(result("krun_add_disk", -int32(syscall.ENOENT)))
	if !errors.Is(err, fs.ErrNotExist) || err.Error() != "krun_add_disk: no such file or directory" {
		t.Errorf("%v", err)
	}
	err = across(&libraryError{"no", "try"})
	var library *libraryError
	if !errors.Is(err, errors.ErrUnsupported) || !errors.As(err, &library) || *library != (libraryError{"no", "try"}) {
		t.Errorf("%v", err)
	}
	if err = across(errors.New("plain\x1b[2J\nlines")); err.Error() != "plain[2J lines" {
		t.Errorf("%q; want it fit for a terminal", err)
	}
}

// Messages are bounded, and keep their ends.
func TestControlMessages(t *testing.T) {
	t.Parallel()
	ours, file, err := socketpair(unix.SOCK_SEQPACKET)
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	fd, err := unix.Dup(int(file.Fd()))
	file.Close()
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := unixConn(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	for _, name := range []string{"a", "b"} {
		if err := send(ours, query{Libraries: []string{name}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"a", "b"} {
		var q query
		if err := receive(theirs, &q); err != nil || q.Libraries[0] != want {
			t.Errorf("%+v, %v; want %s", q, err, want)
		}
	}
	if err := send(ours, query{Libraries: []string{strings.Repeat("x", maxControl)}}); err == nil {
		t.Error("a message without bounds was sent")
	}
	if _, err := theirs.Write([]byte("{")); err != nil {
		t.Fatal(err)
	}
	if err := receive(ours, &query{}); err == nil {
		t.Error("half a message was received")
	}
	theirs.Close()
	if err := receive(ours, &query{}); err == nil {
		t.Error("a message came from nobody")
	}
}

// Whatever a machine's process that was broken into reports is an error of one line,
// which no terminal acts on.
func FuzzReport(f *testing.F) {
	f.Add([]byte(`{"failure":{"text":"no\u001b[2J\nreally","errno":2}}`))
	f.Add([]byte(`{"failure":{"text":"","fix":"\u202e\u0000"}}`))
	f.Add([]byte(`{"failure":{"errno":18446744073709551615}}`))
	f.Add([]byte(`{"offer":{"path":7}}`))
	f.Fuzz(func(t *testing.T, message []byte) {
		var r report
		if json.Unmarshal(message, &r) != nil || r.Failure == nil {
			return
		}
		err := r.Failure.err()
		for _, text := range []string{err.Error(), hv.HelpFor(err)} {
			for _, c := range text {
				if !unicode.IsPrint(c) {
					t.Errorf("%q has %q", text, c)
				}
			}
		}
	})
}
