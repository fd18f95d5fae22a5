package control

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

// TestReadFrame checks what is a frame and what isn't.
func TestReadFrame(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, in string
		kind     frameKind
		payload  string
		err      error
	}{
		{"stdin", "\x01\x00\x00\x00\x02ab", frameStdin, "ab", nil},
		{"empty", "\x02\x00\x00\x00\x00", frameStdinEOF, "", nil},
		{"exit", "\x86\x00\x00\x00\x02{}", frameExit, "{}", nil},
		{"full", "\x82\x00\x01\x00\x00" + strings.Repeat("x", maxPayload), frameStdout, strings.Repeat("x", maxPayload), nil},
		{"end", "", 0, "", io.EOF},
		{"end in the head", "\x01\x00", 0, "", io.ErrUnexpectedEOF},
		{"end behind the head", "\x01\x00\x00\x00\x01", 0, "", io.ErrUnexpectedEOF},
		{"end in the payload", "\x01\x00\x00\x00\x02a", 0, "", io.ErrUnexpectedEOF},
		{"no kind", "\x00\x00\x00\x00\x00", 0, "", errFrame},
		{"unknown kind", "\x88\x00\x00\x00\x00", 0, "", errFrame},
		{"too long", "\x01\x00\x01\x00\x01", 0, "", errFrame},
		{"HTTP", "HTTP/1.1 400", 0, "", errFrame},
	} {
		kind, payload, err := readFrame(strings.NewReader(tt.in), make([]byte, maxPayload))
		if kind != tt.kind || string(payload) != tt.payload || !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
			t.Errorf("%s: %#x %q, %v", tt.name, kind, payload, err)
		}
	}
}

// TestFramesFit checks that the longest of what we send fits into a frame.
func TestFramesFit(t *testing.T) {
	t.Parallel()
	worst := strings.Repeat("\x01", 1<<20) // each byte becomes six
	f, err := appendJSON(nil, frameFailure, (&Failure{Kind: KindInternal, Message: worst, Hint: worst}).clipped())
	if err != nil {
		t.Fatal(err)
	}
	kind, payload, err := readFrame(bytes.NewReader(f), make([]byte, maxPayload))
	if err != nil {
		t.Fatal(err)
	}
	if m, err := execMessage(kind, payload); err != nil || len(m.Failure.Message) != maxFailureText {
		t.Errorf("%d bytes of message, %v", len(m.Failure.Message), err)
	}
	if _, err := appendJSON(nil, frameFailure, worst); err == nil {
		t.Error("a payload that is too long was encoded")
	}
	if _, err := appendJSON(nil, frameFailure, func() {}); err == nil {
		t.Error("a function was encoded")
	}
}

// FuzzFrame checks that whatever reads as frames is written the same way, that
// what isn't is an error, and that no message of it makes a client panic.
func FuzzFrame(f *testing.F) {
	f.Add([]byte("\x81\x00\x00\x00\x0b{\"pid\":123}\x82\x00\x00\x00\x01x"))
	f.Add([]byte("\x86\x00\x00\x00\x12{\"code\":-1,\"signal\":9}"))
	f.Add([]byte("\x03\x00\x00\x00\x0d{\"signal\":15}"))
	f.Add([]byte("\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r, buf := bytes.NewReader(in), make([]byte, maxPayload)
		for {
			at := len(in) - r.Len()
			kind, payload, err := readFrame(r, buf)
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, errFrame) {
					t.Fatalf("error %v", err)
				}
				return
			}
			if again := appendFrame(nil, kind, payload); !bytes.Equal(again, in[at:len(in)-r.Len()]) {
				t.Fatalf("read %q, wrote %q", in[at:len(in)-r.Len()], again)
			}
			if m, err := execMessage(kind, payload); err == nil && (kind < frameStarted || m.Kind == 0) {
				t.Fatalf("kind %#x gives %+v", kind, m)
			}
		}
	})
}
