package guest

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"strings"
)

// protocol is the name and number of the protocol above SSH, in both ends'
// version lines. Host and agent are of one build or of neighbouring ones; a
// different number is an error on either side, never a guess.
const protocol = "SSH-2.0-sluice_3"

// The types of channels, which only the host opens.
const (
	typeCall = "call@sluice" // extra: a callName; data: JSON each way
	typeExec = "exec@sluice" // data: a Command behind its length, then what it reads
	typeSFTP = "sftp@sluice" // data: SFTP
	typeDial = "dial@sluice" // extra: a target; data: the connection's
)

// The names of the requests on a channel. None wants a reply.
const (
	requestStarted = "started@sluice" // guest: a number, the process's id
	requestRefused = "refused@sluice" // guest: a failure; it was not started
	requestBroken  = "broken@sluice"  // guest: nobody reads the host's data any more
	requestEnded   = "ended@sluice"   // guest: the data that follows is none; EOF is meant
	requestExit    = "exit@sluice"    // guest: an Exit
	requestSignal  = "signal@sluice"  // host: a number, 1…64
	requestResize  = "resize@sluice"  // host: rows and columns as one number, 16 bits each
	requestCredit  = "credit@sluice"  // host: how many bytes of data were read, of extended data
)

// A callName says what a call is.
type callName string

const (
	callBoot      callName = "boot"      // body: Bootstrap
	callConfigure callName = "configure" // body: Network
	callClock     callName = "clock"     // body: time.Time
	callShutdown  callName = "shutdown"  // body: time.Duration, how long commands have to end
)

// Bounds of messages in bytes. What the host sends carries the user's
// environment, /etc/hosts and certificates; what the guest sends is an outcome
// and lines of text.
const (
	maxCall    = 8 << 20
	maxReply   = 96 << 10
	maxCommand = 16 << 20 // Linux executes 2 MiB, or six with a larger stack
	maxFailure = 32 << 10 // of a refused channel, or command
	maxText    = 4 << 10  // of one error's text
)

// errProtocol is matched by the error that ends a stream whose other end
// broke the protocol.
var errProtocol = errors.New("malformed message")

// A reply is the guest's answer to a call.
type reply struct {
	Error    string   `json:"error,omitempty"` // "" is success
	Warnings []string `json:"warnings,omitempty"`
}

// A target is what to dial.
type target struct {
	Network string `json:"network"` // tcp, tcp4, tcp6 or unix
	Address string `json:"address"`
}

// valid reports whether t can be dialled at all.
func (t target) valid() error {
	switch t.Network {
	case "tcp", "tcp4", "tcp6":
		_, _, err := net.SplitHostPort(t.Address)
		return err
	case "unix":
		if !strings.HasPrefix(t.Address, "/") {
			return fmt.Errorf("socket %q is not an absolute path", t.Address)
		}
		return nil
	}
	return fmt.Errorf("network %q is not tcp, tcp4, tcp6 or unix", t.Network)
}

// A failure is why a channel was refused.
type failure struct {
	Code    int    `json:"code,omitempty"`  // of a StartError; 0 for other channels
	Cause   cause  `json:"cause,omitempty"` // what a dial met
	Message string `json:"message"`
}

// A cause is an error that is the same on every system.
type cause string

const (
	causeRefused cause = "refused" // nobody listens
	causeMissing cause = "missing" // there is no such socket
	causeTimeout cause = "timeout"
)

// encodeFailure returns f for a channel's refusal. What it says is shortened:
// paths may be long, and JSON may need six bytes for one.
func encodeFailure(f failure) string {
	f.Message = shorten(f.Message)
	text, err := json.Marshal(f)
	if err != nil {
		panic("guest: internal error: failure can't be encoded: " + err.Error())
	}
	return string(text)
}

// parseFailure parses what encodeFailure returns.
func parseFailure(text string) (failure, error) {
	var f failure
	if len(text) > maxFailure {
		return f, fmt.Errorf("%w: refusal of %d bytes", errProtocol, len(text))
	}
	if err := decode(strings.NewReader(text), maxFailure, &f); err != nil {
		return failure{}, err
	}
	f.Message = printable(shorten(f.Message))
	return f, nil
}

// parseReply parses the guest's answer to a call.
func parseReply(r io.Reader) (reply, error) {
	var answer reply
	if err := decode(r, maxReply, &answer); err != nil {
		return reply{}, err
	}
	answer.Error = printable(shorten(answer.Error))
	for i, w := range answer.Warnings {
		answer.Warnings[i] = printable(shorten(w))
	}
	return answer, nil
}

// encodeCommand returns what begins an exec channel's data. Its error says that the
// command can't be sent.
func encodeCommand(c Command) ([]byte, error) {
	if err := c.valid(); err != nil {
		return nil, err
	}
	text, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	if len(text) > maxCommand {
		return nil, fmt.Errorf("arguments and environment of %d bytes are over the limit of %d", len(text), maxCommand)
	}
	return append(encodeNumbers(uint32(len(text))), text...), nil
}

// readCommand reads what encodeCommand returns, and nothing behind it.
func readCommand(r io.Reader) (Command, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return Command{}, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxCommand {
		return Command{}, fmt.Errorf("%w: command of %d bytes", errProtocol, n)
	}
	var c Command
	if err := decode(io.LimitReader(r, int64(n)), int64(n), &c); err != nil {
		return Command{}, err
	}
	return c, c.valid()
}

// valid reports whether c can be a command: what it says beyond that is the
// System's to judge.
func (c Command) valid() error {
	switch {
	case len(c.Args) == 0:
		return errors.New("no program is named")
	case c.Inherit && (c.TTY != nil || c.Stdin):
		return errors.New("a command that inherits the standard files has no terminal and no pipe")
	}
	for _, list := range [][]string{c.Args, c.Env, {c.Dir, c.User}} {
		for _, s := range list {
			if strings.ContainsRune(s, 0) {
				return fmt.Errorf("%q has a NUL byte", s)
			}
		}
	}
	return nil
}

// decode reads one JSON value of at most limit bytes, and nothing behind it.
func decode(r io.Reader, limit int64, into any) error {
	text, err := io.ReadAll(io.LimitReader(r, limit+1))
	switch {
	case err != nil:
		return err
	case int64(len(text)) > limit:
		return fmt.Errorf("%w: over %d bytes", errProtocol, limit)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%w: %v", errProtocol, err)
	}
	return nil
}

// shorten cuts text to maxText bytes.
func shorten(text string) string {
	if len(text) > maxText {
		return text[:maxText] + "…"
	}
	return text
}

// encodeNumbers returns the payload of a request.
func encodeNumbers(numbers ...uint32) []byte {
	payload := make([]byte, 0, 4*len(numbers))
	for _, n := range numbers {
		payload = binary.BigEndian.AppendUint32(payload, n)
	}
	return payload
}

// parseNumbers parses a payload of as many numbers as into points to.
func parseNumbers(payload []byte, into ...*uint32) error {
	if len(payload) != 4*len(into) {
		return fmt.Errorf("%w: %d bytes for %d numbers", errProtocol, len(payload), len(into))
	}
	for i, n := range into {
		*n = binary.BigEndian.Uint32(payload[4*i:])
	}
	return nil
}

// encodeExit returns the payload of requestExit: the code and the signal, of
// which one is 0.
func encodeExit(e Exit) []byte {
	return encodeNumbers(uint32(max(e.Code, 0)), uint32(e.Signal))
}

// parseExit parses what encodeExit returns.
func parseExit(payload []byte) (Exit, error) {
	var code, signal uint32
	if err := parseNumbers(payload, &code, &signal); err != nil {
		return Exit{}, err
	}
	switch {
	case code > math.MaxUint8, code != 0 && signal != 0, signal != 0 && !validSignal(int(signal)):
		return Exit{}, fmt.Errorf("%w: exit with code %d and signal %d", errProtocol, code, signal)
	case signal != 0:
		return Exit{Code: -1, Signal: int(signal)}, nil
	}
	return Exit{Code: int(code)}, nil
}

// encodeSize returns the payload of requestResize.
func encodeSize(rows, cols uint16) []byte { return encodeNumbers(uint32(rows)<<16 | uint32(cols)) }

// parseSize parses what encodeSize returns.
func parseSize(payload []byte) (rows, cols uint16, err error) {
	var size uint32
	err = parseNumbers(payload, &size)
	return uint16(size >> 16), uint16(size), err
}

// validSignal reports whether n is a signal's number on Linux.
func validSignal(n int) bool { return 1 <= n && n <= 64 }

// valid reports whether e has one of the three codes.
func (e *StartError) valid() bool { return CodeRefused <= e.Code && e.Code <= CodeNotFound }
