package mitm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"sync"
	"time"
)

// An http1Client sends the requests of one guest's connection to its server over
// HTTP/1, one after the other, on a connection that is kept while both sides wish.
// net/http writes the requests and reads the responses. Its Transport isn't used:
// it logs what a server sends unasked, which may be a secret's value, and hands
// every byte through two more goroutines.
//
// It belongs to the goroutine of the guest's connection, where the server of
// net/http runs one handler at a time.
type http1Client struct {
	session *session
	conn    *http1Conn // kept from the last request; nil if there is none
}

// Errors of a connection of which the server isn't to blame.
var (
	errStale       = errors.New("the server has closed the connection")
	errHeadTooLong = errors.New("the head of the response is too long")
	errNotWanted   = errors.New("the server doesn't want the body")
)

// RoundTrip implements [http.RoundTripper]. A request that a kept connection
// couldn't carry is sent once more if the server may get it twice (RFC 9110,
// section 9.2.2), as every client does.
func (c *http1Client) RoundTrip(r *http.Request) (*http.Response, error) {
	conn := c.conn
	c.conn = nil
	if conn != nil && conn.idle() {
		res, err := conn.roundTrip(r)
		if err == nil || !errors.Is(err, errStale) || !repeatable(r) {
			return res, err
		}
	}
	raw, err := c.session.dial(r.Context())
	if err != nil {
		return nil, err
	}
	return c.newConn(raw).roundTrip(r)
}

// repeatable reports whether a request may be sent twice, and can be.
func repeatable(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return r.Body == nil && r.Context().Err() == nil
	}
	return false
}

// An http1Conn is a connection to a server of HTTP/1. One request is on it at a
// time.
type http1Conn struct {
	client *http1Client
	conn   net.Conn
	br     *bufio.Reader
	out    []byte // an empty buffer for the next request; owned by its writer
	budget int64  // bytes that may still be read of a head; negative is no bound
	// peeked gets the result of waiting for the first byte behind the last response;
	// nil before the first request.
	peeked chan error
	// written gets the end of the request's writer.
	written chan error
	pending bool // written has not been received from
}

func (c *http1Client) newConn(raw net.Conn) *http1Conn {
	conn := &http1Conn{client: c, conn: raw, budget: -1}
	conn.br = bufio.NewReaderSize(headReader{conn}, flightChunk)
	return conn
}

// A headReader reads the server's bytes within the budget.
type headReader struct{ c *http1Conn }

// Read implements [io.Reader].
func (h headReader) Read(p []byte) (int, error) {
	c := h.c
	if c.budget < 0 {
		return c.conn.Read(p)
	}
	if c.budget == 0 {
		return 0, errHeadTooLong
	}
	n, err := c.conn.Read(p[:min(int64(len(p)), c.budget)])
	c.budget -= int64(n)
	return n, err
}

// idle reports whether the connection can take a request. One on which the server
// has said something unasked, or nothing more, can't; it is closed.
func (c *http1Conn) idle() bool {
	if c.pending {
		select {
		case err := <-c.written:
			c.pending = false
			if err != nil {
				c.close()
				return false
			}
		default:
			c.close() // the last response came before the request was sent
			return false
		}
	}
	select {
	case <-c.peeked:
		c.close()
		return false
	default:
		return true
	}
}

func (c *http1Conn) close() { _ = c.conn.Close() }

// roundTrip sends a request and reads the head of its response. If the error is
// errStale, the server has said nothing.
func (c *http1Conn) roundTrip(r *http.Request) (*http.Response, error) {
	stop := context.AfterFunc(r.Context(), c.close)
	b := newSentBody(r, c)
	c.written, c.pending = make(chan error, 1), true
	if b == nil {
		c.written <- c.write(r)
	} else {
		r.Body = b
		if r.ContentLength < 0 {
			r.TransferEncoding = []string{"chunked"} // else net/http probes the body, on a goroutine of its own
		}
		c.client.session.enter()
		go func() {
			defer c.client.session.leave()
			err := c.write(r)
			if b.broken {
				c.close() // the server would wait for the rest
			}
			c.written <- err
		}()
	}
	res, err := c.readHead(r, b)
	if b != nil {
		b.decide(err == nil && res.StatusCode == http.StatusSwitchingProtocols)
	}
	if err != nil {
		stop()
		c.close()
		if ctxErr := r.Context().Err(); ctxErr != nil {
			err = ctxErr
		}
		return nil, err
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		res.Body = &switched{Conn: c.conn, br: c.br, stop: stop}
		return res, nil
	}
	body := &receivedBody{ReadCloser: res.Body, conn: c, keep: !res.Close, stop: stop}
	if res.Body == http.NoBody || r.Method == http.MethodHead {
		body.end()
	}
	res.Body = body
	return res, nil
}

// write sends a request. An error closes the connection only if it is the
// connection's: the server may have answered before it had the body.
func (c *http1Conn) write(r *http.Request) error {
	w := &requestWriter{conn: c.conn, buf: c.out}
	c.out = nil
	if b, ok := r.Body.(*sentBody); ok {
		b.flush = w.flush
	}
	if err := r.Write(w); err != nil {
		return err
	}
	if err := w.flush(); err != nil {
		return err
	}
	if cap(w.buf) <= flightChunk { // what a body has grown isn't kept by an idle connection
		c.out = w.buf
	}
	return nil
}

// readHead reads the head of the final response, and passes the interim ones on.
func (c *http1Conn) readHead(r *http.Request, b *sentBody) (*http.Response, error) {
	if err := c.first(c.peeked != nil); err != nil {
		return nil, err
	}
	c.budget = int64(c.client.session.p.limits.HeadBytes)
	defer func() { c.budget = -1 }()
	for {
		res, err := http.ReadResponse(c.br, r)
		if err != nil {
			return nil, fmt.Errorf("read response: %w", err)
		}
		if res.StatusCode >= 200 || res.StatusCode == http.StatusSwitchingProtocols {
			return res, nil
		}
		if b != nil && res.StatusCode == http.StatusContinue {
			b.decide(true)
		}
		if trace := httptrace.ContextClientTrace(r.Context()); trace != nil && trace.Got1xxResponse != nil {
			if err := trace.Got1xxResponse(res.StatusCode, textproto.MIMEHeader(res.Header)); err != nil {
				return nil, err
			}
		}
	}
}

// first waits for the first byte of a response. On a kept connection somebody is
// waiting already.
func (c *http1Conn) first(kept bool) error {
	var err error
	if kept {
		err = <-c.peeked
	} else {
		_, err = c.br.Peek(1)
	}
	switch {
	case err == nil:
		return nil
	case kept && !isAlert(err):
		return fmt.Errorf("%w: %w", errStale, err)
	}
	return fmt.Errorf("read response: %w", err)
}

// keep makes the connection wait for the next request.
func (c *http1Conn) keep() {
	if c.br.Buffered() > 0 { // bytes that nobody asked for
		c.close()
		return
	}
	c.peeked = make(chan error, 1)
	peeked := c.peeked
	c.client.session.enter()
	go func() {
		defer c.client.session.leave()
		_, err := c.br.Peek(1)
		peeked <- err
	}()
	c.client.conn = c
}

// A requestWriter collects what net/http writes of a request, in small pieces, and
// sends it in large ones.
type requestWriter struct {
	conn net.Conn
	buf  []byte
}

// Write implements [io.Writer].
func (w *requestWriter) Write(p []byte) (int, error) {
	if len(w.buf)+len(p) > relayChunk {
		if err := w.flush(); err != nil {
			return 0, err
		}
		if len(p) >= relayChunk {
			return w.conn.Write(p)
		}
	}
	w.buf = append(w.buf, p...)
	return len(p), nil
}

// WriteByte implements [io.ByteWriter], so that net/http doesn't buffer once more.
func (w *requestWriter) WriteByte(b byte) error {
	_, err := w.Write([]byte{b})
	return err
}

// flush sends what was collected.
func (w *requestWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	_, err := w.conn.Write(w.buf)
	w.buf = w.buf[:0]
	return err
}

// A sentBody is the body of a request on its way. Before each read, which may wait
// for the guest, everything so far is sent. With Expect: 100-continue the first
// read waits for the server's word.
type sentBody struct {
	io.ReadCloser
	flush  func() error
	wanted chan bool // gets the server's word, once; nil if none is awaited
	waited bool      // for that
	once   sync.Once
	broken bool // the guest's body failed
}

// newSentBody returns the body of a request, nil if it has none.
func newSentBody(r *http.Request, c *http1Conn) *sentBody {
	if r.Body == nil {
		return nil
	}
	b := &sentBody{ReadCloser: r.Body}
	if r.Header.Get("Expect") != "" {
		b.wanted = make(chan bool, 1)
	}
	return b
}

// decide tells whether the server wants the body, if that isn't known yet.
func (b *sentBody) decide(wanted bool) {
	if b.wanted != nil {
		b.once.Do(func() { b.wanted <- wanted })
	}
}

// Read implements [io.Reader].
func (b *sentBody) Read(p []byte) (int, error) {
	if err := b.flush(); err != nil {
		return 0, err
	}
	if b.wanted != nil && !b.waited {
		b.waited = true
		timer := time.NewTimer(expectTimeout)
		defer timer.Stop()
		select {
		case wanted := <-b.wanted:
			if !wanted {
				return 0, errNotWanted
			}
		case <-timer.C:
		}
	}
	n, err := b.ReadCloser.Read(p)
	b.broken = err != nil && err != io.EOF
	return n, err
}

// A receivedBody is the body of a response. Once it has been read to its end the
// connection can be kept.
type receivedBody struct {
	io.ReadCloser
	conn  *http1Conn
	keep  bool
	stop  func() bool
	ended bool
}

// Read implements [io.Reader].
func (b *receivedBody) Read(p []byte) (int, error) {
	if b.ended {
		return 0, io.EOF
	}
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.end()
	}
	return n, err
}

// end lets the connection go.
func (b *receivedBody) end() {
	b.ended = true
	if b.stop() && b.keep {
		b.conn.keep()
	} else {
		b.conn.close()
	}
}

// Close gives a body up that wasn't read to its end, and the connection with it.
func (b *receivedBody) Close() error {
	if !b.ended {
		b.ended = true
		b.stop()
		b.conn.close()
	}
	return nil
}

// switched is a connection that has changed its protocol.
type switched struct {
	net.Conn
	br   *bufio.Reader
	stop func() bool
}

// Read reads what came with the head first.
func (s *switched) Read(p []byte) (int, error) { return s.br.Read(p) }

// CloseWrite closes the outward half.
func (s *switched) CloseWrite() error { return closeWrite(s.Conn) }

// Close closes the connection.
func (s *switched) Close() error {
	s.stop()
	return s.Conn.Close()
}
