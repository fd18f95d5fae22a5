package mitm

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/net/http2"

	"github.com/sluicenet/sluice/mitm/secret"
)

// errSwitched is the error of a response that changes the protocol although the
// request didn't ask for it.
var errSwitched = errors.New("upstream switched protocols unasked")

// errBudget is the error of a response whose head is too large for the memory that
// is left.
var errBudget = errors.New("too many requests under way")

// modifyResponse looks at a response before the guest gets it.
func modifyResponse(res *http.Response) error {
	x := exchangeOf(res.Request)
	x.session.answered.Store(true)
	if res.StatusCode == http.StatusSwitchingProtocols && (!isUpgrade(res.Request) || !strings.EqualFold(res.Header.Get("Upgrade"), "websocket")) {
		return errSwitched
	}
	if !x.charge(headCopies * headSize(res.Header)) {
		return errBudget
	}
	if failed := x.failure(); failed != nil {
		return failed // the server has answered what was refused halfway
	}
	// It would lead the guest to where nobody intercepts.
	res.Header.Del("Alt-Svc")
	x.redact(res)
	return nil
}

// answerError answers a request that couldn't be forwarded, or whose response
// couldn't.
func answerError(w http.ResponseWriter, r *http.Request, err error) {
	x := exchangeOf(r)
	s := x.session
	if failed := x.failure(); failed != nil {
		err = failed
	}
	var (
		violation   *secret.Violation
		unreachable *dialError
		refused     *handshakeError
	)
	switch {
	case errors.As(err, &violation):
		refuse(w, http.StatusForbidden, fmt.Sprintf("the placeholder of the secret %s must not be sent there", violation.Finding.Secret), "")
	// A connection that net/http can't read on ends the context before the body has failed.
	case x.failure() != nil, r.Context().Err() != nil && s.guest.broken.Load():
		refuse(w, http.StatusBadRequest, "the request's body isn't well-formed", "")
	case errors.As(err, &unreachable), errors.Is(err, errSwitched):
		s.flow.Reset()
		panic(http.ErrAbortHandler)
	case errors.As(err, &refused):
		s.p.fail(s.flow, s.name, "upstream", refused.complaint)
		refuse(w, http.StatusBadGateway, refused.complaint.reason, refused.complaint.fix)
	case r.Context().Err() != nil:
		panic(http.ErrAbortHandler) // the guest has gone
	case s.upstream != nil && (isAlert(err) || s.upstream.wantsCertificate() && !s.answered.Load()):
		c := upstreamComplaint(s.name, s.upstream.wantsCertificate(), err)
		s.p.fail(s.flow, s.name, "upstream", c)
		refuse(w, http.StatusBadGateway, c.reason, c.fix)
	default:
		refuse(w, http.StatusBadGateway, "no answer from the server: "+whyNone(err), "")
	}
}

// whyNone says in words of our own why there is no response. Those of net/http and
// x/net quote a server that they can't read, which may be saying a secret's value.
func whyNone(err error) string {
	var (
		errno  syscall.Errno
		stream http2.StreamError
	)
	switch {
	case errors.As(err, &errno):
		return errno.Error()
	case isTimeout(err):
		return "it took too long"
	case errors.As(err, &stream):
		return "it reset the stream: " + stream.Code.String()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, errStale):
		return "it closed the connection"
	case errors.Is(err, errHeadTooLong):
		return errHeadTooLong.Error()
	case errors.Is(err, errBudget):
		return errBudget.Error()
	}
	return "it said nothing that can be passed on"
}

// refuse answers a request with a page of our own, after which the connection
// ends.
func refuse(w http.ResponseWriter, status int, reason, fix string) {
	if rec, ok := w.(*recorder); ok {
		rec.relayed = false
	}
	h := w.Header()
	clear(h)
	h.Set("Connection", "close")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, "sluice: %s\n", reason)
	if fix != "" {
		_, _ = fmt.Fprintf(w, "To change that: %s\n", fix)
	}
}

// A recorder is a ResponseWriter that remembers what was written to it, and keeps
// net/http from adding to a server's response.
type recorder struct {
	http.ResponseWriter
	exchange *exchange
	body     *counted // the request's
	expects  bool     // the guest sends the body only when it is told to
	old      bool     // the guest speaks HTTP/1.0, which has no interim responses
	relayed  bool     // what is written is a server's response
	status   int      // 0 before the head was written
	n        int64
}

// WriteHeader writes the head.
func (w *recorder) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.status = status
		if w.expects && w.body.n.Load() == 0 {
			// It may send it all the same, or not: nobody could tell what comes next.
			w.Header().Set("Connection", "close")
		}
		if h := w.Header(); w.relayed {
			// net/http adds these where they are missing, unless they are there with no
			// value.
			for _, k := range [...]string{"Date", "Content-Type"} {
				if _, ok := h[k]; !ok {
					h[k] = nil
				}
			}
		}
	} else if w.old {
		return // "MUST NOT send a 1xx response": RFC 9110, section 15.2
	} else {
		w.exchange.secrets.Redact(w.Header())
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write writes a part of the body.
func (w *recorder) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.n += int64(n)
	return n, err
}

// Unwrap is for [http.ResponseController].
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Hijack gives the connection away: its protocol changes.
func (w *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	w.status = http.StatusSwitchingProtocols
	w.exchange.session.guest.open()
	// What was read of the new protocol already is the first to be read again.
	ahead, _ := rw.Reader.Peek(rw.Reader.Buffered())
	return &replayed{Conn: c, bytes: ahead}, rw, nil
}

// A counted body counts what was read of it.
type counted struct {
	io.ReadCloser
	n atomic.Int64 // the upstream's writer reads while the handler may end
}

// Read implements [io.Reader].
func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// A bufferPool lends the buffers in which bodies are copied.
type bufferPool struct{ pool sync.Pool }

func newBufferPool() *bufferPool {
	return &bufferPool{sync.Pool{New: func() any { return new([relayChunk]byte) }}}
}

// Get returns a buffer.
func (b *bufferPool) Get() []byte { return b.pool.Get().(*[relayChunk]byte)[:] }

// Put takes one back.
func (b *bufferPool) Put(p []byte) { b.pool.Put((*[relayChunk]byte)(p)) }
