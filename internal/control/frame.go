package control

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// execProtocol is the token of the upgrade to the stream of a command: its name
// and its version. What a frame means never changes within a version.
//
// A frame is one byte of kind, the length of its payload as an unsigned 32-bit
// big-endian number, and the payload: bytes of a standard file, or else JSON.
//
//	to the sandbox                      from the sandbox
//	01 stdin        bytes               81 started     {"pid", "session"}
//	02 end of stdin nothing             82 stdout      bytes
//	03 signal       {"signal": N}       83 stderr      bytes
//	04 resize       {"rows","cols"}     84 room        {"bytes": N} more of stdin
//	                                    85 stdin error Failure
//	                                    86 exit        Exit, the last
//	                                    87 failure     Failure, the last
//
// Bytes of stdin need room: stdinWindow of them may be sent at first, and as
// many more as frames of room say. So a signal never waits behind input that the
// command doesn't read, and the sandbox never holds more than that.
const execProtocol = "sluice-exec/1"

// A frameKind says what a frame is.
type frameKind byte

const (
	frameStdin    frameKind = 0x01
	frameStdinEOF frameKind = 0x02
	frameSignal   frameKind = 0x03
	frameResize   frameKind = 0x04

	frameStarted    frameKind = 0x81
	frameStdout     frameKind = 0x82
	frameStderr     frameKind = 0x83
	frameRoom       frameKind = 0x84
	frameStdinError frameKind = 0x85
	frameExit       frameKind = 0x86
	frameFailure    frameKind = 0x87
)

// known reports whether the kind is of this version.
func (k frameKind) known() bool {
	return frameStdin <= k && k <= frameResize || frameStarted <= k && k <= frameFailure
}

const (
	// frameHead is the length of what stands before a payload, in bytes.
	frameHead = 5
	// maxPayload bounds a payload in bytes: a pipe's size, so that a full one
	// is a frame.
	maxPayload = 64 << 10
	// stdinWindow is how many bytes of stdin the sandbox holds for a command
	// that doesn't read.
	stdinWindow = 256 << 10
)

// errFrame is matched by the errors of frames that break the protocol.
var errFrame = errors.New("malformed frame")

// appendFrame appends a frame to dst. The payload is at most maxPayload long.
func appendFrame(dst []byte, kind frameKind, payload []byte) []byte {
	dst = append(dst, byte(kind))
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(payload)))
	return append(dst, payload...)
}

// readFrame reads a frame into buf, which holds maxPayload bytes and what is
// returned. The error is io.EOF if the stream ended before a frame began.
func readFrame(r io.Reader, buf []byte) (frameKind, []byte, error) {
	var head [frameHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	kind, n := frameKind(head[0]), binary.BigEndian.Uint32(head[1:])
	switch {
	case !kind.known():
		return 0, nil, fmt.Errorf("%w: kind %#02x", errFrame, byte(kind))
	case n > maxPayload:
		return 0, nil, fmt.Errorf("%w: %d bytes are more than %d", errFrame, n, maxPayload)
	}
	if _, err := io.ReadFull(r, buf[:n]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return kind, buf[:n], nil
}

// The payloads that are JSON and have no name elsewhere.
type (
	startedPayload struct {
		PID     uint32 `json:"pid"`
		Session uint64 `json:"session"`
	}
	roomPayload struct {
		Bytes int `json:"bytes"`
	}
	resizePayload struct {
		Rows uint16 `json:"rows"`
		Cols uint16 `json:"cols"`
	}
)

// appendJSON appends a frame whose payload is v. All that we send is small
// enough; what isn't says so instead of breaking the stream.
func appendJSON(dst []byte, kind frameKind, v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return dst, fmt.Errorf("encode %T: %w", v, err)
	}
	if len(text) > maxPayload {
		return dst, fmt.Errorf("encode %T: %d bytes are more than %d", v, len(text), maxPayload)
	}
	return appendFrame(dst, kind, text), nil
}

// readJSON decodes a payload into v.
func readJSON(kind frameKind, payload []byte, v any) error {
	if err := json.Unmarshal(payload, v); err != nil {
		return fmt.Errorf("%w: kind %#02x: %w", errFrame, byte(kind), err)
	}
	return nil
}

// maxFailureText bounds the texts of a failure in a frame, in bytes: escaped in
// the worst way, they still fit.
const maxFailureText = 4 << 10

// clipped returns f as a frame can hold it.
func (f *Failure) clipped() Failure {
	c := *f
	c.Message, c.Hint = clip(c.Message), clip(c.Hint)
	return c
}

func clip(s string) string {
	if len(s) > maxFailureText {
		return s[:maxFailureText]
	}
	return s
}
