package control

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// A Hello is the first message on descriptor 3, from the sandbox's process.
type Hello struct {
	Build string `json:"build"` // see Build
	PID   int    `json:"pid"`
}

// A Spec is its creator's answer: what the sandbox is to be.
type Spec struct {
	Name    string `json:"name"`
	Home    string `json:"home"`    // directory of states
	Runtime string `json:"runtime"` // directory of sockets
	// Again starts the sandbox of that name again, which has ended and was kept.
	Again bool `json:"again,omitempty"`
	// Config is the creator's configuration. Only package sdk reads it.
	Config json.RawMessage `json:"config"`
}

// An Answer says how the start came out. Exactly one field is set. After Ready,
// Ended is the last message.
type Answer struct {
	Ready   *Ready   `json:"ready,omitempty"`
	Failure *Failure `json:"failure,omitempty"`
}

// Ready says that the sandbox runs and serves.
type Ready struct {
	Socket string `json:"socket"` // path of its control socket
	Info   Info   `json:"info"`
}

// maxMessage bounds a message in bytes. A specification holds an environment
// and rules; the largest environment Linux can execute is 6 MiB.
const maxMessage = 16 << 20

// Send writes v as one message: its length as an unsigned 32-bit big-endian
// number, then its JSON text.
func Send(w io.Writer, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %T: %w", v, err)
	}
	if len(text) > maxMessage {
		return fmt.Errorf("send %T: %d bytes are more than %d", v, len(text), maxMessage)
	}
	msg := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(text)), uint32(len(text)))
	if _, err := w.Write(append(msg, text...)); err != nil {
		return fmt.Errorf("send %T: %w", v, err)
	}
	return nil
}

// Receive reads one message into v. The error is io.EOF if the stream ended
// before it began.
func Receive(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return io.EOF
		}
		return fmt.Errorf("receive %T: %w", v, err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxMessage {
		return fmt.Errorf("receive %T: %d bytes are more than %d", v, n, maxMessage)
	}
	// What has not arrived is not allocated: a length is only a claim.
	text, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err != nil {
		return fmt.Errorf("receive %T: %w", v, err)
	}
	if len(text) < int(n) {
		return fmt.Errorf("receive %T: %w", v, io.ErrUnexpectedEOF)
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("decode %T: %w", v, err)
	}
	return nil
}
