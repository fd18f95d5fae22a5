package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// A Client speaks with one running sandbox. Its methods may be called
// concurrently. They return a *[Failure] where the sandbox refused, and an
// error that matches [ErrGone] where it doesn't answer any more.
type Client struct {
	http   http.Client
	socket string
}

// ErrGone is matched by the error of a call whose sandbox has ended, or ended
// before it had answered.
var ErrGone = errors.New("sandbox is gone")

// NewClient returns a client of the sandbox that serves the given socket. It
// does not connect yet. Close it in the end.
func NewClient(socket string) *Client {
	c := &Client{socket: socket}
	c.http.Transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) },
		// Idle connections would keep the sandbox's server from ending soon.
		DisableKeepAlives:  true,
		DisableCompression: true,
	}
	return c
}

// dial connects to the sandbox.
func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", c.socket)
}

// Close frees what the client holds. Calls that are waiting are ended by their
// context, or by the sandbox's end.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Info returns what the sandbox is.
func (c *Client) Info(ctx context.Context) (Info, error) {
	return ask[Info](ctx, c, http.MethodGet, "/v1/sandbox", nil)
}

// Wait waits for the sandbox's end.
func (c *Client) Wait(ctx context.Context) (Ended, error) {
	return ask[Ended](ctx, c, http.MethodGet, "/v1/wait", nil)
}

// Run runs a command and waits for its end. If ctx ends first, the command is
// killed.
func (c *Client) Run(ctx context.Context, cmd Command) (Exit, error) {
	return ask[Exit](ctx, c, http.MethodPost, "/v1/run", cmd)
}

// Signal sends a signal to the running command.
func (c *Client) Signal(ctx context.Context, signal int) error {
	return c.call(ctx, http.MethodPost, "/v1/signal", signalRequest{signal}, nil)
}

// Stop asks the commands to end, ends the sandbox after timeout at the latest,
// and waits for its end.
func (c *Client) Stop(ctx context.Context, timeout time.Duration) (Ended, error) {
	return ask[Ended](ctx, c, http.MethodPost, "/v1/stop", stopRequest{TimeoutMs: timeout.Milliseconds()})
}

// RequestStop is Stop, but doesn't wait.
func (c *Client) RequestStop(ctx context.Context, timeout time.Duration) error {
	return c.call(ctx, http.MethodPost, "/v1/stop", stopRequest{TimeoutMs: timeout.Milliseconds(), NoWait: true}, nil)
}

// Kill ends the sandbox at once and waits for its end.
func (c *Client) Kill(ctx context.Context) (Ended, error) {
	return ask[Ended](ctx, c, http.MethodPost, "/v1/kill", nil)
}

// RequestKill is Kill, but doesn't wait.
func (c *Client) RequestKill(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/kill", stopRequest{NoWait: true}, nil)
}

// Ping returns how long the sandbox takes to answer.
func (c *Client) Ping(ctx context.Context) (time.Duration, error) {
	start := time.Now()
	err := c.call(ctx, http.MethodPost, "/v1/ping", nil, nil)
	return time.Since(start), err
}

// Touch keeps an idle sandbox alive.
func (c *Client) Touch(ctx context.Context) (Touched, error) {
	return ask[Touched](ctx, c, http.MethodPost, "/v1/touch", nil)
}

// Drain makes the sandbox refuse new commands and end with the last that runs.
// It doesn't wait.
func (c *Client) Drain(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/drain", nil, nil)
}

// Detach lets the sandbox outlive its creator.
func (c *Client) Detach(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/detach", nil, nil)
}

// ask is call for an answer of type T.
func ask[T any](ctx context.Context, c *Client, method, path string, in any) (T, error) {
	var out T
	err := c.call(ctx, method, path, in, &out)
	return out, err
}

// call sends a request and decodes the answer into out, unless that is nil.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	resp, err := c.do(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxMessage))
	if err != nil {
		return gone(ctx, err)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("decode answer to %s %s: %w", method, path, err)
	}
	return nil
}

// do sends a request; its error is the Failure that the sandbox answered.
func (c *Client) do(ctx context.Context, method, path string, in any) (*http.Response, error) {
	req, err := request(ctx, method, path, in)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, gone(ctx, err)
	}
	if resp.StatusCode < 400 {
		return resp, nil
	}
	defer resp.Body.Close()
	err = failureOf(req, resp)
	var f *Failure
	if !errors.As(err, &f) {
		err = gone(ctx, err)
	}
	return nil, err
}

// request returns a request whose body is the JSON of in, unless that is nil.
func request(ctx context.Context, method, path string, in any) (*http.Request, error) {
	var reqBody io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("encode %T: %w", in, err)
		}
		reqBody = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://sluice"+path, reqBody)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", path, err)
	}
	return req, nil
}

// failureOf returns the Failure of an answer that is one, or why it can't be
// read.
func failureOf(req *http.Request, resp *http.Response) error {
	f := &Failure{Kind: KindInternal, Message: fmt.Sprintf("%s %s: %s", req.Method, req.URL.Path, resp.Status)}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxMessage))
	if err != nil {
		return err
	}
	// What is not a Failure leaves the status as its message.
	_ = json.Unmarshal(text, f)
	return f
}

// gone turns a failed exchange into the end of ctx, or else into ErrGone: on a
// unix socket only the peer's end breaks a connection.
func gone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return Cause(ctx)
	}
	return fmt.Errorf("%w: %w", ErrGone, err)
}

// Cause returns why ctx has ended, as an error that matches ctx.Err whatever its
// canceller gave as the cause.
func Cause(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(cause, err) {
		return cause
	}
	return fmt.Errorf("%w: %w", err, cause)
}
