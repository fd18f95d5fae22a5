package guest

import (
	"bufio"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// Bounds of what waits to be written to the stream, in bytes.
const (
	// roomForData is how much may wait before data is added to it: enough for the
	// stream to be busy while a writer sleeps, and so little that a key press
	// behind it takes milliseconds.
	roomForData = 256 << 10
	// few is how little data may wait in a queue twice as long: what a person
	// types or reads need not compete with floods for each gap in it.
	few = 2 << 10
	// maxWaiting is when the other end counts as one that doesn't read. All
	// streams' writers at once add a packet each, 16 MiB, and the rest is
	// answers of SSH's own that are a few bytes each.
	maxWaiting = 32 << 20
	// packet is the most data that SSH puts into one packet.
	packet = 32 << 10
)

// errNotReading is why a stream ends whose other end doesn't read.
var errNotReading = errors.New("the other end does not read")

// A transport is a stream as SSH wants it: a net.Conn, whose writes never wait.
type transport struct {
	stream io.ReadWriteCloser
	reader *bufio.Reader // SSH reads by the byte, and by the packet's header
	queue  *queue        // what write is to write
	done   chan struct{} // closed when write has ended
	ended  atomic.Bool   // a Read has met the stream's end
}

// newTransport returns the transport over stream, and owns stream. A Close of
// stream must end its reads and writes.
func newTransport(stream io.ReadWriteCloser) *transport {
	t := &transport{
		stream: stream,
		reader: bufio.NewReaderSize(stream, 4*packet),
		queue:  newQueue(maxWaiting, nil),
		done:   make(chan struct{}),
	}
	go t.write()
	return t
}

// write writes what is in the queue.
func (t *transport) write() {
	defer close(t.done)
	var data []byte
	for {
		next, err := t.queue.take(data)
		if err != nil {
			return
		}
		if _, err := t.stream.Write(next); err != nil {
			t.queue.breakOff(err)
			t.stream.Close() // so that the reader knows
			return
		}
		if data = next; cap(data) > 2*roomForData {
			data = nil
		}
	}
}

// Read reads from the stream.
func (t *transport) Read(p []byte) (int, error) {
	n, err := t.reader.Read(p)
	if err != nil {
		t.ended.Store(true)
	}
	return n, err
}

// Write has p written soon.
func (t *transport) Write(p []byte) (int, error) {
	if t.ended.Load() { // SSH would wait for an answer
		return 0, errEnded
	}
	if !t.queue.offer(p) {
		t.queue.breakOff(errNotReading)
		t.stream.Close()
	}
	t.queue.mu.Lock()
	defer t.queue.mu.Unlock()
	switch {
	case t.queue.broken != nil:
		return 0, t.queue.broken
	case t.queue.end != nil:
		return 0, net.ErrClosed
	}
	return len(p), nil
}

// Close closes the stream at once, and is idempotent.
func (t *transport) Close() error {
	t.queue.breakOff(net.ErrClosed)
	err := t.stream.Close()
	<-t.done
	return err
}

// flush waits until what was written is on its way, at most for patience.
func (t *transport) flush(patience time.Duration) {
	stop := time.AfterFunc(patience, func() { t.queue.breakOff(errNotReading); t.stream.Close() })
	defer stop.Stop()
	t.queue.finish(net.ErrClosed)
	<-t.done
}

// room waits until n bytes of data may be added to what waits.
func (t *transport) room(n int) {
	if n <= few {
		t.queue.room(2 * roomForData)
		return
	}
	t.queue.room(roomForData)
}

// The rest of a net.Conn: SSH uses no deadlines, and a stream has no addresses.

type address struct{}

func (address) Network() string { return "stream" }
func (address) String() string  { return "agent" }

func (t *transport) LocalAddr() net.Addr              { return address{} }
func (t *transport) RemoteAddr() net.Addr             { return address{} }
func (t *transport) SetDeadline(time.Time) error      { return errors.ErrUnsupported }
func (t *transport) SetReadDeadline(time.Time) error  { return errors.ErrUnsupported }
func (t *transport) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }

// config returns what both ends agree on of SSH. The stream is private to them,
// so that the cheapest of its cryptography will do, and no key is ever changed
// for the amount of bytes: SSH stops data while it changes keys, in a way that
// can wait for itself.
func config(ciphers ...string) ssh.Config {
	return ssh.Config{
		KeyExchanges:   []string{ssh.KeyExchangeCurve25519},
		Ciphers:        ciphers,
		MACs:           []string{ssh.HMACSHA256ETM}, // unused: both ciphers authenticate
		RekeyThreshold: math.MaxInt64,
	}
}

// connectClient makes t the host's end of SSH.
func connectClient(t *transport) (ssh.Conn, <-chan ssh.NewChannel, <-chan *ssh.Request, error) {
	conn, channels, requests, err := ssh.NewClientConn(t, "agent", &ssh.ClientConfig{
		Config:            config(ssh.CipherAES128GCM, ssh.CipherChaCha20Poly1305),
		ClientVersion:     protocol,
		HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
		// Nobody else has the stream, so that whoever answers is the guest.
		HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		return nil, nil, nil, err
	}
	if got := string(conn.ServerVersion()); got != protocol {
		conn.Close()
		return nil, nil, nil, fmt.Errorf("%w: the agent speaks %q, this is %q", errProtocol, printable(got), protocol)
	}
	return conn, channels, requests, nil
}

// connectServer makes t the guest's end of SSH.
func connectServer(t *transport) (ssh.Conn, <-chan ssh.NewChannel, <-chan *ssh.Request, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, nil, err
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return nil, nil, nil, err
	}
	cfg := &ssh.ServerConfig{Config: config(fastestCipher()), NoClientAuth: true, ServerVersion: protocol}
	cfg.AddHostKey(signer)
	conn, channels, requests, err := ssh.NewServerConn(t, cfg)
	if err != nil {
		return nil, nil, nil, err
	}
	if got := string(conn.ClientVersion()); got != protocol {
		conn.Close()
		return nil, nil, nil, fmt.Errorf("%w: the host speaks %q, this is %q", errProtocol, got, protocol)
	}
	return conn, channels, requests, nil
}
