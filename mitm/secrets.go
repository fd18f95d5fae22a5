package mitm

import (
	"bytes"
	"errors"
	"io"
	"net/http"

	"github.com/sluicenet/sluice/mitm/secret"
	"github.com/sluicenet/sluice/policy"
)

// proof returns what is known of the host that a request goes to. v is the verdict
// that let it go there.
func (s *session) proof(to target, v policy.Verdict) secret.Proof {
	switch {
	case to.name == "" || !s.flow.Resolved(to.name):
		return secret.ProofNone
	case s.secure && s.verified:
		return secret.ProofTLS
	case v.Group == policy.GroupPublic || byAddress(v):
		return secret.ProofPlain // public, or admitted by an address rule
	}
	return secret.ProofNone
}

// prepare puts the secrets into a request that is about to be sent, or returns why
// it must not be.
func (x *exchange) prepare(r *http.Request) error {
	path := r.URL.Opaque
	if path == "" {
		path = r.URL.EscapedPath()
	}
	head := secret.Head{Method: r.Method, Scheme: r.URL.Scheme, Authority: r.Host, Path: path, Query: r.URL.RawQuery, Header: r.Header, HasBody: r.Body != nil}
	err := x.secrets.Head(&head)
	if err == nil {
		err = x.secrets.Trailer(r.Trailer) // the head has their names
	}
	if err != nil {
		x.punish(err)
		return err
	}
	r.URL.RawQuery = head.Query
	x.report()
	if r.Body == nil {
		return nil
	}
	body, reframe := x.secrets.Body(r.Body)
	b := &requestBody{Reader: body, Closer: r.Body, exchange: x, trailer: r.Trailer}
	if reframe {
		return x.reframe(r, b)
	}
	r.Body = b
	return nil
}

// measured bounds the bodies whose new length is found out before they are sent, in
// bytes: most of those with a secret in them, which are JSON or forms. There are
// servers that take those only with a length.
const measured = 64 << 10

// reframe gives a request a body that may have another length than the guest's.
func (x *exchange) reframe(r *http.Request, b *requestBody) error {
	if r.ContentLength < 0 || r.ContentLength > measured {
		r.Body, r.ContentLength = b, -1
		return nil
	}
	whole, err := io.ReadAll(b)
	if err != nil {
		return err
	}
	r.ContentLength = int64(len(whole))
	b.Reader = bytes.NewReader(whole)
	r.Body = b
	return nil
}

// A requestBody is a request's body on its way to the server.
type requestBody struct {
	io.Reader
	io.Closer
	exchange *exchange
	trailer  http.Header // complete when the body is
}

// Read reads what may be sent, and remembers why nothing more may.
func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		if bad := b.exchange.secrets.Trailer(b.trailer); bad != nil {
			err = bad
		}
	}
	if err != nil && err != io.EOF {
		b.exchange.punish(err)
		b.exchange.fail(err)
	}
	return n, err
}

// fail notes why the request's body ended early: net/http may put another error
// before it.
func (x *exchange) fail(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.failed == nil {
		x.failed = err
	}
}

// failure returns why the request's body ended early.
func (x *exchange) failure() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.failed
}

// redact takes the secrets out of a response.
func (x *exchange) redact(res *http.Response) {
	if x.secrets == nil {
		return
	}
	edited := x.secrets.Response(res.StatusCode, res.Header)
	x.secrets.RedactTrailer(res.Trailer) // only names are known yet
	if edited.Reframe {
		res.ContentLength = -1
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		res.Body = &responseBody{Reader: edited.Body(res.Body), Closer: res.Body, exchange: x, response: res}
	}
}

// A responseBody is a response's body on its way to the guest.
type responseBody struct {
	io.Reader
	io.Closer
	exchange *exchange
	response *http.Response
}

// Read reads what the guest may see.
func (b *responseBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	var leak *secret.Leak
	switch {
	case err == io.EOF:
		b.exchange.secrets.RedactTrailer(b.response.Trailer)
	case errors.As(err, &leak) && !b.exchange.session.guest.http2:
		b.exchange.session.flow.Reset() // of HTTP/2 only the stream is
	}
	return n, err
}

// punish does, if a request fails because a placeholder was on its way elsewhere,
// what the secret asks for beyond refusing the request.
func (x *exchange) punish(err error) {
	var v *secret.Violation
	if !errors.As(err, &v) {
		return
	}
	x.report()
	if terminate := x.session.p.cfg.Terminate; terminate != nil && v.Finding.Action == secret.ActionBlockAndTerminate {
		terminate(v.Error())
	}
}

// report tells what was found of secrets since the last report.
func (x *exchange) report() {
	for _, f := range x.secrets.Findings() {
		kind := map[secret.Kind]string{
			secret.Inject: EventInject, secret.Skip: EventSkip, secret.Block: EventBlock,
			secret.Redact: EventRedact, secret.Reset: EventRedact, secret.Unscanned: EventUnscanned,
		}[f.Kind]
		if f.Kind == secret.Block && f.Action == secret.ActionBlock {
			continue // blocked, and nobody wants to hear of it
		}
		x.session.p.tell(x.session.flow, Event{Type: kind, Name: x.to.name, Secret: f})
	}
}
