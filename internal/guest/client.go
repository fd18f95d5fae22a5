package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

// maxChannels is how many channels there are at once: commands, SFTP streams,
// connections and calls together. It bounds what the guest can make the host
// hold, which is two streamWindows for each.
const maxChannels = 256

// A Client is the host's end of an agent's stream. Its methods may be called
// by several goroutines. One whose context ends returns the context's error at
// once, and leaves the others as they are.
type Client struct {
	transport  *transport
	slots      chan struct{} // holds an element per channel
	connecting chan struct{} // holds an element while somebody connects
	down       chan struct{} // closed by watch when SSH has ended
	ended      chan struct{} // closed by watch, or Close without one, when nothing runs any more

	mu       sync.Mutex // guards the following fields
	conn     ssh.Conn   // nil before connect
	watched  bool       // watch runs, or will not
	closing  bool       // no more goroutine may be added
	running  sync.WaitGroup
	err      error // why the client failed; nil while it works
	warnings []string
}

// NewClient returns a client of the agent at the other end of conn, and owns
// conn from then on. It says nothing yet: Boot does, or the first other call.
// The caller must Close it.
func NewClient(conn net.Conn) *Client {
	return &Client{
		transport:  newTransport(conn),
		slots:      make(chan struct{}, maxChannels),
		connecting: make(chan struct{}, 1),
		down:       make(chan struct{}),
		ended:      make(chan struct{}),
	}
}

// Ended is closed when the stream has ended and all that came on it was passed
// to its caller. Who knows that the guest is gone waits for it before Close,
// which would drop the guest's last word. Before the first call it says nothing.
func (c *Client) Ended() <-chan struct{} { return c.ended }

// Boot tells the guest what it is to be and returns when it is. It is called
// once, before everything else. If ctx ends while nobody has answered yet, the
// client has failed.
func (c *Client) Boot(ctx context.Context, b Bootstrap) error {
	answer, err := c.call(ctx, callBoot, b)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.warnings = answer.Warnings
	return nil
}

// Warnings returns what the guest remarked at Boot: the guest's words, fit for a
// terminal.
func (c *Client) Warnings() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.warnings...)
}

// Configure changes the guest's network: the default routes follow Default4
// and Default6, what is missing is added. Nothing else is taken away.
func (c *Client) Configure(ctx context.Context, n Network) error {
	_, err := c.call(ctx, callConfigure, n)
	return err
}

// SetClock sets the guest's clock. A guest that has its host's is left alone.
func (c *Client) SetClock(ctx context.Context, t time.Time) error {
	_, err := c.call(ctx, callClock, t)
	return err
}

// defaultGrace is how long commands have to end at Shutdown without a deadline.
const defaultGrace = 10 * time.Second

// Shutdown asks every process in the guest to end, by SIGTERM, and kills what is
// left when ctx's deadline is near, or after 10 s if it has none. It returns
// when the agent has ended, and the guest ends with it.
func (c *Client) Shutdown(ctx context.Context) error {
	grace := defaultGrace
	if deadline, ok := ctx.Deadline(); ok {
		grace = time.Until(deadline) * 9 / 10 // the rest is for the answer
	}
	if _, err := c.call(ctx, callShutdown, max(grace, 0)); err != nil {
		return err
	}
	select {
	case <-c.ended:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// SFTP returns a stream of the SFTP protocol to the guest's file server, which
// sees the guest's root directory as the guest's root user does. The caller
// must Close it.
func (c *Client) SFTP(ctx context.Context) (io.ReadWriteCloser, error) {
	ch, err := c.open(ctx, typeSFTP, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("open file server: %w", err)
	}
	return &conn{channel: ch}, nil
}

// Dial connects to an address as the guest's own programs do: the network is
// tcp, tcp4, tcp6 or unix, and loopback is the guest's. Where nobody listens the
// error matches syscall.ECONNREFUSED, where there is no such socket
// fs.ErrNotExist.
func (c *Client) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	to := target{network, address}
	err := to.valid()
	if err == nil {
		var extra []byte
		if extra, err = json.Marshal(to); err == nil {
			var ch *channel
			if ch, err = c.open(ctx, typeDial, extra, nil); err == nil {
				return &conn{channel: ch, remote: guestAddr{to}}, nil
			}
		}
	}
	return nil, &net.OpError{Op: "dial", Net: network, Addr: guestAddr{to}, Err: err}
}

// Close closes the stream, which ends the agent. It is idempotent; calls that
// wait return an error matching net.ErrClosed.
func (c *Client) Close() error {
	c.fail(fmt.Errorf("agent: %w", net.ErrClosed))
	c.mu.Lock()
	if !c.watched {
		c.watched = true
		close(c.ended)
	}
	c.mu.Unlock()
	<-c.ended
	return nil
}

// call makes a call and returns the guest's answer.
func (c *Client) call(ctx context.Context, name callName, body any) (reply, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return reply{}, fmt.Errorf("%s: %w", name, err)
	}
	if len(text) > maxCall {
		return reply{}, fmt.Errorf("%s: %d bytes are over the limit of %d", name, len(text), maxCall)
	}
	answer, err := c.exchange(ctx, name, text)
	switch {
	case err != nil:
		return reply{}, fmt.Errorf("%s: %w", name, err)
	case answer.Error != "":
		return reply{}, fmt.Errorf("%s: %w", name, &RemoteError{Message: answer.Error})
	}
	return answer, nil
}

// exchange sends a call's body and reads the answer.
func (c *Client) exchange(ctx context.Context, name callName, body []byte) (reply, error) {
	ch, err := c.open(ctx, typeCall, []byte(name), nil)
	if err != nil {
		return reply{}, err
	}
	defer ch.close()
	stop := context.AfterFunc(ctx, func() { ch.abort(context.Cause(ctx)) })
	defer stop()
	_, _ = ch.in.Write(body) // an error where the guest has answered without reading it all
	ch.in.finish(io.EOF)
	answer, err := parseReply(ch.out)
	if errors.Is(err, errProtocol) {
		return reply{}, c.fail(err)
	}
	return answer, err
}

// connect does SSH's handshake, once, and returns its connection. If ctx ends
// meanwhile the stream is of no use any more.
func (c *Client) connect(ctx context.Context) (ssh.Conn, error) {
	select {
	case c.connecting <- struct{}{}:
		defer func() { <-c.connecting }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	c.mu.Lock()
	conn, err := c.conn, c.err
	if conn == nil && err == nil {
		c.watched = true
	}
	c.mu.Unlock()
	if conn != nil || err != nil {
		return conn, err
	}
	stop := context.AfterFunc(ctx, func() { c.fail(context.Cause(ctx)) })
	defer stop()
	conn, channels, requests, err := connectClient(c.transport)
	if err != nil {
		err = c.fail(fmt.Errorf("greet agent: %w", plainEnd(err)))
		close(c.down)
		close(c.ended)
		return nil, err
	}
	c.mu.Lock()
	c.conn = conn
	c.mu.Unlock()
	go c.watch(conn, channels, requests)
	return conn, nil
}

// watch waits for the connection's end. A guest that opens a channel, or has
// requests of its own, is none of ours.
func (c *Client) watch(conn ssh.Conn, channels <-chan ssh.NewChannel, requests <-chan *ssh.Request) {
	defer close(c.ended)
	for channels != nil || requests != nil {
		select {
		case ch, ok := <-channels:
			if !ok {
				channels = nil
				continue
			}
			c.fail(fmt.Errorf("%w: the guest opens a channel %s", errProtocol, printable(shorten(ch.ChannelType()))))
		case r, ok := <-requests:
			if !ok {
				requests = nil
				continue
			}
			c.fail(fmt.Errorf("%w: the guest requests %s", errProtocol, printable(shorten(r.Type))))
		}
	}
	c.fail(fmt.Errorf("read from agent: %w", plainEnd(conn.Wait())))
	close(c.down)
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	c.running.Wait()
}

// goroutine runs f in a goroutine that watch waits for. It reports whether it
// was not too late for that.
func (c *Client) goroutine(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return false
	}
	c.running.Go(f)
	return true
}

// errEnded is what the ways come to in which a stream shows that its other end
// is gone; errCutOff is the end of one channel before its time.
var (
	errEnded  = errors.New("the agent ended")
	errCutOff = errors.New("the guest cut it off")
)

// plainEnd returns errEnded for an error that means no more than that.
func plainEnd(err error) error {
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, net.ErrClosed, syscall.EPIPE, syscall.ECONNRESET} {
		if err == nil || errors.Is(err, end) {
			return errEnded
		}
	}
	return err
}

// fail ends the client: it keeps the first error and closes the stream, which
// wakes the calls that wait. It returns the error it kept.
func (c *Client) fail(err error) error {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	err = c.err
	c.mu.Unlock()
	c.transport.Close()
	return err
}

// failure returns why the client failed; errCutOff if it hasn't, and the guest
// ended something by itself.
func (c *Client) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return c.err
	case c.transport.ended.Load(): // and watch hears of it soon
		return errEnded
	}
	return errCutOff
}
