package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// A Client is the host's end of an agent's stream. Its methods may be called
// by several goroutines.
type Client struct {
	conn  net.Conn
	ended chan struct{} // closed when read returns

	writing sync.Mutex // held for the length of one message, not for a reply

	mu     sync.Mutex // guards the following fields
	lastID uint64
	calls  map[uint64]chan *message // one reply each, then removed; closed by fail
	err    error                    // why the client failed; nil while it works
}

// NewClient returns a client of the agent at the other end of conn, and owns
// conn from then on. The caller must Close it.
func NewClient(conn net.Conn) *Client {
	c := &Client{conn: conn, ended: make(chan struct{}), calls: make(map[uint64]chan *message)}
	go c.read()
	return c
}

// Ended is closed when the stream has ended and every reply on it was passed to
// its caller. Who knows that the guest is gone waits for it before Close, which
// would drop the guest's last word.
func (c *Client) Ended() <-chan struct{} { return c.ended }

// Boot tells the guest what it is to be and returns when it is.
func (c *Client) Boot(ctx context.Context, b Bootstrap) error {
	return c.do(ctx, &message{Kind: kindBoot, Boot: &b})
}

// Configure changes the guest's network: the default routes follow Default4
// and Default6, what is missing is added. Nothing else is taken away.
func (c *Client) Configure(ctx context.Context, n Network) error {
	return c.do(ctx, &message{Kind: kindConfigure, Network: &n})
}

// Run runs the guest's one command and returns how it ended. If it could not
// be started the error is a *StartError. When ctx ends first, the command is
// killed and ctx's error returned, without waiting for the guest.
func (c *Client) Run(ctx context.Context, cmd Command) (Exit, error) {
	reply, err := c.call(ctx, &message{Kind: kindRun, Command: &cmd})
	switch {
	case ctx.Err() != nil && err != nil:
		_ = c.Signal(9) // the guest may not listen; who must be sure ends the VM
		return Exit{}, err
	case err != nil:
		return Exit{}, err
	case reply.Kind != kindExit:
		return Exit{}, c.fail(fmt.Errorf("%w: %q answers run", errProtocol, reply.Kind))
	case reply.Start != nil:
		return Exit{}, &StartError{Code: reply.Start.Code, Message: printable(reply.Start.Message)}
	}
	return *reply.Exit, nil
}

// Signal sends signal n to the command and the processes of its group. It does
// not wait for the guest to confirm.
func (c *Client) Signal(n int) error {
	if !validSignal(n) {
		return fmt.Errorf("signal %d is not in 1…64", n)
	}
	ctx, cancel := context.WithTimeout(context.Background(), signalTimeout)
	defer cancel()
	id, _, err := c.send(ctx, &message{Kind: kindSignal, Signal: n})
	c.ignore(id)
	return err
}

// signalTimeout bounds how long Signal waits for room in the stream. An agent
// that reads makes room at once.
const signalTimeout = time.Second

// Close closes the stream, which ends the agent if its command still runs. It
// is idempotent; calls that wait return an error matching net.ErrClosed.
func (c *Client) Close() error {
	c.fail(fmt.Errorf("agent: %w", net.ErrClosed))
	<-c.ended
	return nil
}

// do makes a request whose reply is done.
func (c *Client) do(ctx context.Context, m *message) error {
	reply, err := c.call(ctx, m)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", m.Kind, err)
	case reply.Kind != kindDone:
		return c.fail(fmt.Errorf("%w: %q answers %s", errProtocol, reply.Kind, m.Kind))
	case reply.Error != "":
		return fmt.Errorf("%s: %w", m.Kind, &RemoteError{Message: printable(reply.Error)})
	}
	return nil
}

// call sends a request and waits for its reply.
func (c *Client) call(ctx context.Context, m *message) (*message, error) {
	id, answered, err := c.send(ctx, m)
	if err != nil {
		return nil, err
	}
	select {
	case reply, ok := <-answered:
		if !ok {
			return nil, c.failure()
		}
		return reply, nil
	case <-ctx.Done():
		c.ignore(id)
		return nil, ctx.Err()
	}
}

// send sends a request and returns its ID and the channel of its reply. When
// ctx ends in the middle of a message the stream is of no use any more.
func (c *Client) send(ctx context.Context, m *message) (uint64, <-chan *message, error) {
	if err := ctx.Err(); err != nil {
		return 0, nil, err
	}
	answered := make(chan *message, 1)
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return 0, nil, c.err
	}
	c.lastID++
	m.ID = c.lastID
	c.calls[m.ID] = answered
	c.mu.Unlock()

	c.writing.Lock()
	defer c.writing.Unlock()
	stop := context.AfterFunc(ctx, func() { c.fail(context.Cause(ctx)) })
	err := writeMessage(c.conn, m, maxRequest)
	if !stop() && err != nil {
		return m.ID, nil, ctx.Err()
	}
	if err != nil {
		return m.ID, nil, c.fail(fmt.Errorf("write %s: %w", m.Kind, plainEnd(err)))
	}
	return m.ID, answered, nil
}

// ignore forgets a call: its reply, should it come, is dropped.
func (c *Client) ignore(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.calls[id]; ok {
		c.calls[id] = nil
	}
}

// read passes replies to their callers until the stream ends. What doesn't
// answer a call breaks the protocol: a guest can't make the client remember
// anything.
func (c *Client) read() {
	defer close(c.ended)
	for {
		m, err := readMessage(c.conn, maxReply)
		if err == nil {
			err = c.deliver(m)
		}
		if err != nil {
			c.fail(fmt.Errorf("read reply: %w", plainEnd(err)))
			return
		}
	}
}

// errEnded is what the ways come to in which a stream shows that its other end
// is gone.
var errEnded = errors.New("the agent ended")

// plainEnd returns errEnded for an error that means no more than that.
func plainEnd(err error) error {
	for _, end := range []error{io.EOF, io.ErrClosedPipe, syscall.EPIPE, syscall.ECONNRESET} {
		if errors.Is(err, end) {
			return errEnded
		}
	}
	return err
}

// deliver hands a reply to the call that it answers.
func (c *Client) deliver(m *message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	answered, ok := c.calls[m.ID]
	if !ok || c.err != nil {
		return fmt.Errorf("%w: reply to request %d, which isn't open", errProtocol, m.ID)
	}
	delete(c.calls, m.ID)
	if answered != nil {
		answered <- m // has room: one reply per call
	}
	return nil
}

// fail ends the client: it keeps the first error, closes the stream and wakes
// the calls that wait. It returns the error it kept.
func (c *Client) fail(err error) error {
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return c.err
	}
	c.err = err
	for id, answered := range c.calls {
		delete(c.calls, id)
		if answered != nil {
			close(answered)
		}
	}
	c.mu.Unlock()
	c.conn.Close()
	return err
}

// failure returns why the client failed.
func (c *Client) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}
