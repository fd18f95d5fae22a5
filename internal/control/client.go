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
	"strconv"
	"time"
)

// A Client speaks with one running sandbox. Its methods may be called
// concurrently. They return a *[Failure] where the sandbox refused, and an
// error that matches [ErrGone] where it doesn't answer any more.
type Client struct {
	http http.Client
}

// ErrGone is matched by the error of a call whose sandbox has ended, or ended
// before it had answered.
var ErrGone = errors.New("sandbox is gone")

// NewClient returns a client of the sandbox that serves the given socket. It
// does not connect yet. Close it in the end.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &Client{http: http.Client{Transport: &http.Transport{
		DialContext: dial,
		// Idle connections would keep the sandbox's server from ending soon.
		DisableKeepAlives:  true,
		DisableCompression: true,
	}}}
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

// Stop asks the command to end, ends the sandbox after timeout at the latest,
// and waits for its end.
func (c *Client) Stop(ctx context.Context, timeout time.Duration) (Ended, error) {
	return ask[Ended](ctx, c, http.MethodPost, "/v1/stop", stopRequest{timeout.Milliseconds()})
}

// Kill ends the sandbox at once and waits for its end.
func (c *Client) Kill(ctx context.Context) (Ended, error) {
	return ask[Ended](ctx, c, http.MethodPost, "/v1/kill", nil)
}

// Ports returns what is published.
func (c *Client) Ports(ctx context.Context) ([]Port, error) {
	return ask[[]Port](ctx, c, http.MethodGet, "/v1/ports", nil)
}

// Publish publishes a port and returns it with the address that was bound.
func (c *Client) Publish(ctx context.Context, p Port) (Port, error) {
	return ask[Port](ctx, c, http.MethodPost, "/v1/ports", p)
}

// Unpublish ends the publication of a port, and the flows that came through it.
func (c *Client) Unpublish(ctx context.Context, p Port) error {
	return c.call(ctx, http.MethodPost, "/v1/ports/remove", p, nil)
}

// Events opens the stream of events, JSON lines, from number from on; from < 0
// means the next one. It returns when nothing from then on is missed. The
// stream ends after the sandbox's last event, or with ctx; the caller closes
// it.
func (c *Client) Events(ctx context.Context, from int64) (io.ReadCloser, error) {
	resp, err := c.do(ctx, http.MethodGet, "/v1/events?from="+strconv.FormatInt(from, 10), nil)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
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
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, gone(ctx, err)
	}
	if resp.StatusCode < 400 {
		return resp, nil
	}
	defer resp.Body.Close()
	f := &Failure{Kind: KindInternal, Message: fmt.Sprintf("%s %s: %s", method, path, resp.Status)}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxMessage))
	if err != nil {
		return nil, gone(ctx, err)
	}
	// What is not a Failure leaves the status as its message.
	_ = json.Unmarshal(text, f)
	return nil, f
}

// gone turns a failed exchange into the end of ctx, or else into ErrGone: on a
// unix socket only the peer's end breaks a connection.
func gone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("%w: %w", ErrGone, err)
}
