package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
)

// A Process is a command that runs, as a Sandbox gives it to its server. The
// reading methods' readers end with the command's output.
type Process interface {
	PID() uint32
	Session() uint64       // number of the command in the sandbox's log
	Stdin() io.WriteCloser // may be nil if the command has none
	Stdout() io.Reader
	Stderr() io.Reader
	Signal(ctx context.Context, n int) error
	Resize(ctx context.Context, rows, cols uint16) error
	// Wait returns how the command ended, after both readers have.
	Wait(ctx context.Context) (Exit, error)
	// Close kills the command if it runs, and wakes whoever waits for it.
	Close() error
}

// exec runs a command and carries its standard files.
func (h *handler) exec(w http.ResponseWriter, r *http.Request) {
	var cmd Command
	if !asks(w, r, execProtocol) || !command(w, r, &cmd) {
		return
	}
	s, ok := h.streams.accept(w, r, execProtocol)
	if !ok {
		return
	}
	defer h.streams.end(s)
	ctx, cancel := context.WithCancelCause(context.Background())
	c := &carrier{conn: s, orders: make(chan order, ordersHeld), input: newInbox(), kept: cmd.Keep}
	var reader sync.WaitGroup
	reader.Go(func() {
		err := c.receive(ctx)
		if cmd.Keep {
			c.leave(cmd.TTY == nil)
			return
		}
		cancel(err)
	})
	c.carry(ctx, h.sb, cmd)
	cancel(context.Canceled)
	_ = s.Conn.Close() // wakes the reader
	reader.Wait()
}

// ordersHeld bounds the signals and sizes that wait for a command to take them.
const ordersHeld = 16

// An order is a signal for a command, or a size for its terminal.
type order struct {
	signal     int // 0 for a size
	rows, cols uint16
}

// A carrier carries one command's frames. Each of its goroutines has one thing to
// wait for, so that none of them keeps another from its work.
type carrier struct {
	conn   *stream
	input  *inbox
	orders chan order

	writing sync.Mutex // held for the length of a frame
	kept    bool       // that nobody is there to hear is no error; doesn't change
	left    bool       // nobody is; guarded by writing
}

// leave lets the command go on without a client. A pipe that it reads from ends;
// the end of a terminal's input would be a key that nobody pressed.
func (c *carrier) leave(end bool) {
	_ = c.conn.Conn.Close() // wakes who writes
	c.writing.Lock()
	c.left = true
	c.writing.Unlock()
	if end {
		c.input.end()
	}
}

// carry starts the command and returns when all about it has been sent, or
// nobody listens any more.
func (c *carrier) carry(ctx context.Context, sb Guest, cmd Command) {
	p, err := sb.Exec(ctx, cmd)
	if err != nil {
		_ = c.sendJSON(frameFailure, AsFailure(err).clipped())
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { _ = p.Close() })
	var workers, outputs sync.WaitGroup
	defer func() {
		stop()
		_ = p.Close() // it has ended, or nobody is there to hear
		cancel()
		workers.Wait()
	}()
	if c.sendJSON(frameStarted, startedPayload{p.PID(), p.Session()}) != nil {
		return
	}
	workers.Go(func() { c.feed(ctx, p.Stdin()) })
	workers.Go(func() { c.obey(ctx, p) })
	outputs.Go(func() { c.pump(frameStdout, p.Stdout()) })
	outputs.Go(func() { c.pump(frameStderr, p.Stderr()) })
	outputs.Wait()
	exit, err := p.Wait(ctx)
	if err != nil {
		_ = c.sendJSON(frameFailure, AsFailure(err).clipped())
		return
	}
	_ = c.sendJSON(frameExit, exit)
}

// receive reads frames until the client is gone, and says why it ended.
func (c *carrier) receive(ctx context.Context) error {
	buf := make([]byte, maxPayload)
	for {
		kind, payload, err := readFrame(c.conn, buf)
		if err != nil {
			return err
		}
		var o order
		switch kind {
		case frameStdin:
			err = c.input.put(payload)
		case frameStdinEOF:
			c.input.end()
		case frameSignal:
			var p signalRequest
			if err = readJSON(kind, payload, &p); err == nil {
				o.signal, err = p.Signal, checkSignal(p.Signal)
			}
		case frameResize:
			var p resizePayload
			err = readJSON(kind, payload, &p)
			o.rows, o.cols = p.Rows, p.Cols
		default:
			err = fmt.Errorf("%w: kind %#02x to the sandbox", errFrame, byte(kind))
		}
		if err != nil {
			return err
		}
		if kind != frameSignal && kind != frameResize {
			continue
		}
		select {
		case c.orders <- o:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// obey passes on signals and sizes. What comes too late concerns nobody.
func (c *carrier) obey(ctx context.Context, p Process) {
	for {
		select {
		case o := <-c.orders:
			if o.signal != 0 {
				_ = p.Signal(ctx, o.signal)
			} else {
				_ = p.Resize(ctx, o.rows, o.cols)
			}
		case <-ctx.Done():
			return
		}
	}
}

// feed writes what came in to the command's input, and gives room for it again.
// A command that reads no more is told of once; its input is thrown away then.
func (c *carrier) feed(ctx context.Context, stdin io.WriteCloser) {
	var failed error
	if stdin == nil {
		failed = errors.New("the command has no standard input")
	}
	told := false
	for {
		p, more := c.input.take(ctx)
		if len(p) > 0 && failed == nil {
			_, failed = stdin.Write(p)
		}
		if len(p) > 0 && failed != nil && !told && ctx.Err() == nil {
			told = true
			_ = c.sendJSON(frameStdinError, (&Failure{Kind: KindIO, Message: "standard input: " + failed.Error()}).clipped())
		}
		if len(p) > 0 && c.sendJSON(frameRoom, roomPayload{len(p)}) != nil || !more {
			break
		}
	}
	if stdin != nil {
		_ = stdin.Close() // it has ended, or reads no more
	}
}

// pump sends what the command writes. A client that doesn't read makes this
// command wait, and nobody else.
func (c *carrier) pump(kind frameKind, r io.Reader) {
	buf := make([]byte, maxPayload)
	var frame []byte
	for {
		n, err := r.Read(buf)
		if n > 0 {
			frame = appendFrame(frame[:0], kind, buf[:n])
			if c.send(frame) != nil {
				return // receive notices, and ends the command
			}
		}
		if err != nil {
			return // what ended it shows in Wait
		}
	}
}

func (c *carrier) sendJSON(kind frameKind, v any) error {
	f, err := appendJSON(nil, kind, v)
	if err != nil {
		return err
	}
	return c.send(f)
}

func (c *carrier) send(frame []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.left {
		return nil
	}
	_, err := c.conn.Write(frame)
	if err != nil && c.kept {
		return nil // receive notices too, and leaves
	}
	return err
}

// An inbox holds a command's input until that takes it, at most stdinWindow
// bytes.
type inbox struct {
	mu    sync.Mutex // guards the following fields
	held  bytes.Buffer
	ended bool
	ready chan struct{} // has room for one sign that something changed
}

func newInbox() *inbox { return &inbox{ready: make(chan struct{}, 1)} }

// put adds bytes; a client that sends more than there was room for, or behind
// the end, breaks the protocol.
func (b *inbox) put(p []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended || b.held.Len()+len(p) > stdinWindow {
		return fmt.Errorf("%w: no room for %d bytes of stdin", errFrame, len(p))
	}
	b.held.Write(p)
	b.sign()
	return nil
}

// end says that nothing comes any more.
func (b *inbox) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	b.sign()
}

// sign wakes take. The caller holds mu.
func (b *inbox) sign() {
	select {
	case b.ready <- struct{}{}:
	default: // it has been told
	}
}

// take returns what is held, and whether more may come. It waits until there is
// something, or ctx ends.
func (b *inbox) take(ctx context.Context) (p []byte, more bool) {
	for {
		b.mu.Lock()
		p, more = bytes.Clone(b.held.Bytes()), !b.ended
		b.held.Reset()
		b.mu.Unlock()
		if len(p) > 0 || !more {
			return p, more
		}
		select {
		case <-b.ready:
		case <-ctx.Done():
			return nil, false
		}
	}
}
