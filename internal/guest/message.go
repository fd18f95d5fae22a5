package guest

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// version is the protocol's number, in every message. Host and agent are of
// one build or of neighbouring ones; a different number is an error on either
// side, never a guess.
const version = 1

// Bounds of a message's JSON in bytes. A request carries the user's
// environment and /etc/hosts; a reply is an outcome and one line of text, and
// its memory is what a hostile guest can make the host allocate.
const (
	maxRequest = 4 << 20
	maxReply   = 64 << 10
)

// errProtocol is matched by the error that ends a stream whose other end
// broke the protocol.
var errProtocol = errors.New("malformed message")

// A kind says what a message is.
type kind string

const (
	kindBoot      kind = "boot"      // host: Boot
	kindConfigure kind = "configure" // host: Network
	kindRun       kind = "run"       // host: Command
	kindSignal    kind = "signal"    // host: Signal
	kindDone      kind = "done"      // guest: the request of this ID is done, or failed with Error
	kindExit      kind = "exit"      // guest: the command of this ID ended with Exit, or didn't start
)

// A message is one unit of the protocol. On the stream it is JSON behind its
// length, an unsigned 32-bit big-endian number.
type message struct {
	Version int    `json:"v"`
	ID      uint64 `json:"id"` // of the request; a reply repeats it
	Kind    kind   `json:"kind"`

	Boot    *Bootstrap `json:"boot,omitempty"`    // valid iff Kind is boot
	Network *Network   `json:"network,omitempty"` // valid iff Kind is configure
	Command *Command   `json:"command,omitempty"` // valid iff Kind is run
	Signal  int        `json:"signal,omitempty"`  // valid iff Kind is signal

	Error string      `json:"error,omitempty"` // valid iff Kind is done; "" is success
	Exit  *Exit       `json:"exit,omitempty"`  // valid iff Kind is exit, and the command ran
	Start *StartError `json:"start,omitempty"` // valid iff Kind is exit, and it did not start
}

// readMessage reads a message of at most limit bytes. It returns io.EOF only
// between messages.
func readMessage(r io.Reader, limit int) (*message, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || int64(n) > int64(limit) {
		return nil, fmt.Errorf("%w: length %d is not in 1…%d", errProtocol, n, limit)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	m := new(message)
	if err := json.Unmarshal(body, m); err != nil {
		return nil, fmt.Errorf("%w: %v", errProtocol, err)
	}
	if m.Version != version {
		return nil, fmt.Errorf("%w: protocol version %d, want %d", errProtocol, m.Version, version)
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	return m, nil
}

// writeMessage writes m in one Write, so that a stream is never left between
// the length and the body.
func writeMessage(w io.Writer, m *message, limit int) error {
	m.Version = version
	body, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode %s message: %w", m.Kind, err)
	}
	if len(body) > limit {
		return fmt.Errorf("%s message of %d bytes is over the limit of %d", m.Kind, len(body), limit)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
	return err
}

// check reports whether m has what its kind promises, so that no reader of a
// message meets a nil or a number out of range.
func (m *message) check() error {
	ok := false
	switch m.Kind {
	case kindBoot:
		ok = m.Boot != nil
	case kindConfigure:
		ok = m.Network != nil
	case kindRun:
		ok = m.Command != nil && len(m.Command.Args) > 0
	case kindSignal:
		ok = validSignal(m.Signal)
	case kindDone:
		ok = true
	case kindExit:
		ok = (m.Exit != nil) != (m.Start != nil) && m.Exit.valid() && m.Start.valid()
	}
	if !ok {
		return fmt.Errorf("%w: kind %q", errProtocol, m.Kind)
	}
	return nil
}

// validSignal reports whether n is a signal's number on Linux.
func validSignal(n int) bool { return 1 <= n && n <= 64 }

// valid reports whether e is nil or a possible outcome.
func (e *Exit) valid() bool {
	switch {
	case e == nil:
		return true
	case e.Signal != 0:
		return validSignal(e.Signal) && e.Code == -1
	}
	return 0 <= e.Code && e.Code <= 255
}

// valid reports whether e is nil or has one of the three codes.
func (e *StartError) valid() bool {
	return e == nil || CodeRefused <= e.Code && e.Code <= CodeNotFound
}
