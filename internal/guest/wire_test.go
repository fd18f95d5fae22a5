package guest

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// TestCommandsThatAreNone checks what is refused before a System sees it.
func TestCommandsThatAreNone(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ text, want string }{
		{`{"args":["a"]}`, ""},
		{`{"args":["a"],"tty":{"rows":1,"cols":2},"stdin":true}`, ""},
		{`{}`, "no program"},
		{`{"args":[]}`, "no program"},
		{`{"args":["a\u0000b"]}`, "NUL"},
		{`{"args":["a"],"env":["A=\u0000"]}`, "NUL"},
		{`{"args":["a"],"user":"\u0000"}`, "NUL"},
		{`{"args":["a"],"inherit":true,"stdin":true}`, "inherits"},
		{`{"args":["a"],"inherit":true,"tty":{}}`, "inherits"},
		{`{"args":["a"],"tty":{"rows":65536}}`, "malformed"},
		{`{"args":["a"]} x`, "malformed"},
		{`[]`, "malformed"},
		{``, "malformed"},
		{strings.Repeat(" ", maxCommand+1), "malformed"},
	} {
		_, err := readCommand(bytes.NewReader(append(encodeNumbers(uint32(len(row.text))), row.text...)))
		if (err == nil) != (row.want == "") || err != nil && !strings.Contains(err.Error(), row.want) {
			t.Errorf("%.80q: %v; want %q", row.text, err, row.want)
		}
	}
}

// TestTargets checks what can be dialled.
func TestTargets(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		target
		ok bool
	}{
		{target{"tcp", "127.0.0.1:80"}, true},
		{target{"tcp6", "[::1]:80"}, true},
		{target{"tcp4", "localhost:http"}, true},
		{target{"unix", "/run/x"}, true},
		{target{"tcp", "127.0.0.1"}, false},
		{target{"unix", "x"}, false},
		{target{"unix", "@x"}, false},
		{target{"unixgram", "/run/x"}, false},
		{target{"udp", "127.0.0.1:80"}, false},
		{target{}, false},
	} {
		if err := row.valid(); (err == nil) != row.ok {
			t.Errorf("%+v: %v", row.target, err)
		}
	}
}

// FuzzCommand checks that a command comes out as it went in.
func FuzzCommand(f *testing.F) {
	f.Add([]byte(`{"args":["sh","-c","x"],"env":["A=b"],"dir":"/","user":"u:g","tty":{"rows":2,"cols":3,"term":"t"},"stdin":true}`))
	f.Add([]byte(`{"args":["a"],"inherit":true}`))
	f.Add([]byte(`{"Args":[""],"env":[]}`)) // an empty list is none
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := readCommand(bytes.NewReader(append(encodeNumbers(uint32(len(text))), text...)))
		if err != nil {
			return
		}
		if text, err = encodeCommand(c); err != nil {
			t.Fatal(err)
		}
		rest := strings.NewReader(string(text) + "rest")
		again, err := readCommand(rest)
		if diff := cmp.Diff(c, again, cmpopts.EquateEmpty()); err != nil || diff != "" || rest.Len() != len("rest") {
			t.Errorf("%v, %d bytes left\n%s", err, rest.Len(), diff)
		}
	})
}

// FuzzFailure checks that a guest's refusal is bounded, fit for a terminal, and
// one of the errors that callers know.
func FuzzFailure(f *testing.F) {
	f.Add(encodeFailure(failure{Code: CodeNotFound, Message: "x: not found"}))
	f.Add(encodeFailure(failure{Cause: causeRefused, Message: strings.Repeat("\x1b", maxText)}))
	f.Add(`{"code":1,"message":"\u001b[2J"}`)
	f.Fuzz(func(t *testing.T, text string) {
		parsed, err := parseFailure(text)
		if err != nil {
			if !errors.Is(err, errProtocol) {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		checkShown(t, parsed.Message)
		var start *StartError
		if err := parsed.asError(); errors.As(err, &start) && !start.valid() {
			t.Errorf("%q has code %d", text, start.Code)
		}
		if again, err := parseFailure(encodeFailure(parsed)); err != nil || again.Code != parsed.Code || again.Cause != parsed.Cause && len(parsed.Cause) < maxText {
			t.Errorf("%+v became %+v, %v", parsed, again, err)
		}
	})
}

// checkShown checks that a text of the guest's can be shown.
func checkShown(t *testing.T, text string) {
	t.Helper()
	if len(text) > 10*maxText {
		t.Errorf("a text of %d bytes", len(text))
	}
	for _, r := range text {
		if !unicode.IsPrint(r) {
			t.Errorf("%q would reach a terminal", text)
		}
	}
}

// FuzzReply checks that a guest's answer is bounded and fit for a terminal.
func FuzzReply(f *testing.F) {
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"error":"\u001b","warnings":["a","\n"]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		answer, err := parseReply(bytes.NewReader(text))
		if err != nil {
			return
		}
		checkShown(t, answer.Error)
		for _, w := range answer.Warnings {
			checkShown(t, w)
		}
	})
}

// FuzzExit checks that an exit is one that can be, and comes out as it went in.
func FuzzExit(f *testing.F) {
	f.Add(encodeExit(Exit{Code: 255}))
	f.Add(encodeExit(Exit{Code: -1, Signal: 64}))
	f.Add([]byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, payload []byte) {
		e, err := parseExit(payload)
		if err != nil {
			return
		}
		if e.Code < -1 || e.Code > 255 || e.Signal < 0 || e.Signal > 64 || (e.Code == -1) != (e.Signal != 0) {
			t.Errorf("%v is %+v", payload, e)
		}
		if !bytes.Equal(encodeExit(e), payload) {
			t.Errorf("%v became %v", payload, encodeExit(e))
		}
	})
}

// TestWarningsFit checks that what a System says fits into an answer.
func TestWarningsFit(t *testing.T) {
	t.Parallel()
	warnings := make([]string, 100)
	for i := range warnings {
		warnings[i] = strings.Repeat("\x01", 10<<10)
	}
	text, err := json.Marshal(reply{Warnings: boundWarnings(warnings), Error: shorten(strings.Repeat("\x01", 1<<20))})
	if err != nil || len(text) > maxReply {
		t.Errorf("an answer of %d bytes, %v", len(text), err)
	}
	if refusal := encodeFailure(failure{Message: strings.Repeat("\x01", 1<<20)}); len(refusal) > maxFailure {
		t.Errorf("a refusal of %d bytes", len(refusal))
	}
}
