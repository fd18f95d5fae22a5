package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// maxStreams bounds the streams of one sandbox at once: the 256 commands that an
// agent runs at a time, those that wait, and as many again for files and
// connections. Each holds a descriptor.
const maxStreams = 1024

// A stream is a connection that is HTTP no more.
type stream struct {
	net.Conn
	early *bufio.Reader // what came with the last head; nil once it is empty
}

// Read reads what came early, then from the connection.
func (s *stream) Read(p []byte) (int, error) {
	if s.early != nil {
		if n := s.early.Buffered(); n > 0 {
			return s.early.Read(p[:min(n, len(p))])
		}
		s.early = nil
	}
	return s.Conn.Read(p)
}

// CloseWrite ends our side; the other still speaks.
func (s *stream) CloseWrite() error { return closeWrite(s.Conn) }

// closeWrite ends our side of c, all of it where c has no sides.
func closeWrite(c io.Closer) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}

// streams are the upgraded connections of a server. HTTP's server lets go of
// them, so that somebody else must end them.
type streams struct {
	mu     sync.Mutex // guards the following fields
	open   map[*stream]struct{}
	closed bool
	idle   chan struct{} // closed when closed is set and nothing is open
}

func newStreams() *streams {
	return &streams{open: make(map[*stream]struct{}), idle: make(chan struct{})}
}

// accept upgrades the connection of a request whose body was read. The caller
// must end the stream. If it reports false the request has been answered.
func (ss *streams) accept(w http.ResponseWriter, r *http.Request, protocol string) (*stream, bool) {
	s := new(stream)
	if err := ss.reserve(s); err != nil {
		fail(w, err)
		return nil, false
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		ss.release(s)
		fail(w, fmt.Errorf("upgrade: %w", err))
		return nil, false
	}
	ss.mu.Lock()
	s.Conn, s.early = conn, rw.Reader
	closed := ss.closed
	ss.mu.Unlock()
	_ = conn.SetDeadline(time.Time{}) // it was the server's
	_, err = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", protocol)
	if err != nil || closed {
		ss.end(s)
		return nil, false
	}
	return s, true
}

// asks reports whether a request wants the upgrade to protocol; it is answered
// if not.
func asks(w http.ResponseWriter, r *http.Request, protocol string) bool {
	if strings.EqualFold(r.Header.Get("Connection"), "upgrade") && r.Header.Get("Upgrade") == protocol {
		return true
	}
	w.Header().Set("Upgrade", protocol)
	failStatus(w, http.StatusUpgradeRequired, &Failure{Kind: KindArgument, Message: fmt.Sprintf("%s answers only with Upgrade: %s", r.URL.Path, protocol)})
	return false
}

// reserve makes room for a stream.
func (ss *streams) reserve(s *stream) error {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	switch {
	case ss.closed:
		return &Failure{Kind: KindNotRunning, Message: "the sandbox is ending"}
	case len(ss.open) >= maxStreams:
		return &Failure{Kind: KindUnsupported, Message: fmt.Sprintf("%d streams are open already", maxStreams), Hint: "end some first"}
	}
	ss.open[s] = struct{}{}
	return nil
}

// release gives a stream's room back.
func (ss *streams) release(s *stream) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	delete(ss.open, s)
	if ss.closed && len(ss.open) == 0 {
		close(ss.idle)
	}
}

// end closes a stream.
func (ss *streams) end(s *stream) {
	_ = s.Conn.Close() // its peer is gone, or has all
	ss.release(s)
}

// shutdown takes no more streams, waits for those that are open until ctx ends,
// then cuts them off and waits for who serves them.
func (ss *streams) shutdown(ctx context.Context) {
	ss.mu.Lock()
	if !ss.closed {
		ss.closed = true
		if len(ss.open) == 0 {
			close(ss.idle)
		}
	}
	ss.mu.Unlock()
	select {
	case <-ss.idle:
		return
	case <-ctx.Done():
	}
	ss.mu.Lock()
	for s := range ss.open {
		if s.Conn != nil {
			_ = s.Conn.Close()
		}
	}
	ss.mu.Unlock()
	<-ss.idle
}

// splice copies both ways between a stream and what is behind it until both
// sides have ended, or either is broken. It closes neither.
func splice(s *stream, inner io.ReadWriteCloser) {
	var both sync.WaitGroup
	both.Go(func() {
		_, err := io.Copy(inner, s)
		if err == nil {
			err = closeWrite(inner)
		}
		if err != nil {
			_ = inner.Close()
			_ = s.Conn.Close()
		}
	})
	_, err := io.Copy(s, inner)
	if err == nil {
		err = s.CloseWrite()
	}
	if err != nil {
		_ = inner.Close()
		_ = s.Conn.Close()
	}
	both.Wait()
}

// upgrade asks for a stream; its error is the Failure that the sandbox answered.
// ctx governs the asking only.
func (c *Client) upgrade(ctx context.Context, method, path, protocol string, in any) (*stream, error) {
	req, err := request(ctx, method, path, in)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", protocol)
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, gone(ctx, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	s, err := handshake(conn, req)
	if !stop() && err == nil { // the deadline is set, or is being set
		err = Cause(ctx)
	}
	if err == nil {
		return s, nil
	}
	_ = conn.Close()
	var f *Failure
	if errors.As(err, &f) {
		return nil, f
	}
	return nil, gone(ctx, err)
}

// handshake sends a request for an upgrade and reads its answer.
func handshake(conn net.Conn, req *http.Request) (*stream, error) {
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	early := bufio.NewReader(conn)
	resp, err := http.ReadResponse(early, req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return &stream{Conn: conn, early: early}, nil
	}
	defer resp.Body.Close()
	return nil, failureOf(req, resp)
}
