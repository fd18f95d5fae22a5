package control

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// TestMessages checks that what is sent is received, one message after the
// other, however the stream is cut.
func TestMessages(t *testing.T) {
	t.Parallel()
	spec := Spec{Name: "a", Home: "/h", Runtime: "/r", Config: json.RawMessage(`{"network":null}`)}
	hello := Hello{Build: "devel/1", PID: 7}
	var stream bytes.Buffer
	if err := errors.Join(Send(&stream, hello), Send(&stream, spec)); err != nil {
		t.Fatal(err)
	}
	r := iotest.OneByteReader(&stream)
	var gotHello Hello
	var gotSpec Spec
	if err := errors.Join(Receive(r, &gotHello), Receive(r, &gotSpec)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(hello, gotHello); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(spec, gotSpec); diff != "" {
		t.Error(diff)
	}
	if err := Receive(r, &gotHello); err != io.EOF {
		t.Errorf("behind the last message: %v, want EOF", err)
	}
}

// TestReceiveErrors checks streams that are no messages.
func TestReceiveErrors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, stream, want string }{
		{"nothing", "", "EOF"},
		{"half a length", "\x00\x00", "unexpected EOF"},
		{"half a message", "\x00\x00\x00\x05{}", "unexpected EOF"},
		{"a length and no more", "\x00\x00\x00\x02", "unexpected EOF"},
		{"a length above the bound", "\x01\x00\x00\x01", "16777217 bytes are more than 16777216"},
		{"the largest length", "\xff\xff\xff\xff", "4294967295 bytes are more than 16777216"},
		{"no JSON", "\x00\x00\x00\x02no", "invalid character"},
		{"JSON of another type", "\x00\x00\x00\x02[]", "cannot unmarshal array"},
		{"empty", "\x00\x00\x00\x00", "unexpected end of JSON input"},
	} {
		var h Hello
		if err := Receive(strings.NewReader(tt.stream), &h); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

// TestSendErrors checks values that can't be sent.
func TestSendErrors(t *testing.T) {
	t.Parallel()
	if err := Send(io.Discard, func() {}); err == nil {
		t.Error("a function was sent")
	}
	if err := Send(io.Discard, strings.Repeat("x", maxMessage)); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("a message above the bound: %v", err)
	}
	r, w := io.Pipe()
	r.Close()
	if err := Send(w, 1); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a broken stream: %v", err)
	}
}

// TestBuildID checks which builds count as the same.
func TestBuildID(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]string{
		"":                                   "devel/1",
		"(devel)":                            "devel/1",
		"v1.2.3":                             "v1.2.3/1",
		"v1.2.3+dirty":                       "devel/1",
		"v0.0.0-20260101000000-abcdefabcdef": "devel/1",
		"v1.0.0-rc.1":                        "devel/1",
	} {
		if got := buildID(version); got != want {
			t.Errorf("buildID(%q) is %q, want %q", version, got, want)
		}
	}
	if got := Build(); got != "devel/1" { // a test binary is none of a release
		t.Errorf("Build() is %q", got)
	}
}

// FuzzReceive checks that no stream makes Receive panic, or allocate what did
// not arrive, and that what it takes is a message.
func FuzzReceive(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02{}"))
	f.Add([]byte("\x00\xff\xff\xff{}"))
	f.Add([]byte("\x00\x00\x00\x14{\"name\":\"a\",\"x\":1e9}"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		var spec Spec
		r := bytes.NewReader(stream)
		if err := Receive(r, &spec); err != nil {
			return
		}
		if n := binary.BigEndian.Uint32(stream); int(n) != len(stream)-4-r.Len() {
			t.Errorf("a message of %d bytes took %d", n, len(stream)-4-r.Len())
		}
		var again bytes.Buffer
		if err := Send(&again, spec); err != nil {
			t.Errorf("what was received can't be sent: %v", err)
		}
	})
}
