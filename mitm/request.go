package mitm

import (
	"context"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/sluicenet/sluice/internal/sniff"
	"github.com/sluicenet/sluice/mitm/secret"
	"github.com/sluicenet/sluice/policy"
)

// expectTimeout is how long a guest's body waits for the upstream's 100 (Continue)
// before it is sent all the same, as curl does.
const expectTimeout = time.Second

// An exchange is one request and its response. It is in the context of both the
// guest's request and ours.
type exchange struct {
	session *session
	to      target
	secrets *secret.Request // nil if there is nothing to look for

	cost int64 // bytes taken from the budget of requests; owned by the handler's goroutine

	mu     sync.Mutex
	failed error // why the request's body ended early, nil if it didn't
}

// exchangeKey is the key of a request's exchange in its context.
type exchangeKey struct{}

func exchangeOf(r *http.Request) *exchange { return r.Context().Value(exchangeKey{}).(*exchange) }

// serveRequest answers one request.
func (p *Proxy) serveRequest(w http.ResponseWriter, r *http.Request) {
	s := r.Context().Value(sessionKey{}).(*session)
	s.enter()
	defer s.leave()
	began := p.now()
	x := &exchange{session: s}
	defer func() { p.requests.give(x.cost) }()
	if !x.charge(requestCost + headCopies*(int64(len(r.RequestURI))+headSize(r.Header))) {
		if r.ProtoMajor == 2 {
			panic(http.ErrAbortHandler) // who doesn't read couldn't be answered
		}
		refuse(w, http.StatusServiceUnavailable, "too many requests under way", "")
		return
	}
	old := !r.ProtoAtLeast(1, 1)
	if old { // "MUST ignore" both in HTTP/1.0: RFC 9110, sections 7.8 and 10.1.1
		r.Header.Del("Upgrade")
		r.Header.Del("Expect")
	}
	body := &counted{ReadCloser: r.Body}
	rec := &recorder{ResponseWriter: w, exchange: x, body: body, old: old, expects: r.ProtoMajor == 1 && r.ContentLength != 0 && r.Header.Get("Expect") != ""}
	r.Body = body
	defer func() {
		x.report()
		p.tell(s.flow, Event{
			Type: EventRequest, Name: eventName(s, r), Method: r.Method, Path: eventPath(r), Proto: r.Proto,
			Status: rec.status, Sent: body.n.Load(), Received: rec.n, Duration: p.now().Sub(began),
		})
	}()
	x.serve(rec, r)
}

// charge takes what a part of the exchange holds of memory from the budget, until
// the exchange ends. It reports a guest that has none left.
func (x *exchange) charge(n int64) bool {
	p := x.session.p
	if !p.requests.take(n) {
		if p.requests.news(p.now()) {
			p.tell(x.session.flow, Event{Type: EventLimit, Limit: "RequestBytes"})
		}
		return false
	}
	x.cost += n
	return true
}

// serve checks whom a request is for, lets the policy decide, and forwards it.
func (x *exchange) serve(w *recorder, r *http.Request) {
	s := x.session
	if s.complaint != nil {
		refuse(w, http.StatusBadGateway, s.complaint.reason, s.complaint.fix)
		return
	}
	if r.Method == http.MethodConnect {
		s.connect(w, r)
		return
	}
	var problem string
	if x.to, problem = s.target(r); problem != "" {
		refuse(w, http.StatusBadRequest, problem, "")
		return
	}
	if s.secure && !x.to.is(s.name, s.flow.Asked().Port()) {
		refuse(w, http.StatusMisdirectedRequest, "this connection is for another host", "")
		return
	}
	v := s.decide(x.to)
	switch {
	case v.Action != policy.Allow && s.secure:
		s.flow.Reset()
		panic(http.ErrAbortHandler)
	case v.Action != policy.Allow:
		refuse(w, http.StatusMisdirectedRequest, "the policy denies this host", "")
		return
	case r.Method == http.MethodTrace && s.p.cfg.Secrets != nil:
		// Its answer is the request.
		refuse(w, http.StatusMethodNotAllowed, "no TRACE where there are secrets", "")
		return
	}
	x.secrets = s.p.cfg.Secrets.Request(secret.Destination{Host: x.to.name, Proof: s.proof(x.to, v)})
	if r.ProtoMajor == 1 {
		// Bodies flow both ways at once, as they do without us.
		if err := http.NewResponseController(w.ResponseWriter).EnableFullDuplex(); err != nil {
			s.p.log.Error("enable full duplex", "err", err)
		}
	}
	if !isUpgrade(r) {
		r.Header.Del("Upgrade")
	}
	r.Header.Del("Http2-Settings")
	w.relayed = true
	s.p.reverse.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x)))
}

// decide returns the policy's verdict of this moment on a request.
func (s *session) decide(to target) policy.Verdict {
	if s.secure {
		return s.flow.Decide(s.name, fromSNI)
	}
	return s.flow.Decide(to.name, fromHTTP)
}

// isUpgrade reports whether a request wants to become a WebSocket, the one other
// protocol that may follow.
func isUpgrade(r *http.Request) bool {
	return r.Method == http.MethodGet && r.ProtoMajor == 1 && len(r.Header["Upgrade"]) == 1 &&
		httpguts.HeaderValuesContainsToken(r.Header["Connection"], "Upgrade") &&
		strings.EqualFold(r.Header["Upgrade"][0], "websocket")
}

// A target says whom a request is for and what it asks of it.
type target struct {
	name string // canonical; "" if it names nobody
	port int    // -1 if it isn't written
	path string // in origin form, query included, or *
}

// target returns whom a request is for, or what is wrong with it. What package
// sniff has read strictly is only taken apart here; requests of HTTP/2 are read
// here first.
func (s *session) target(r *http.Request) (to target, problem string) {
	if problem := unambiguous(r); problem != "" {
		return target{}, problem
	}
	// As strictly as the first flight: what another reader could take apart in
	// another way, "a%2f.example.com", must not count as a name below example.com.
	name, addr, port, ok := sniff.ParseAuthority(r.Host)
	switch {
	case !ok:
		return target{}, "the authority isn't host and port"
	case addr.IsValid() && addr != s.flow.Asked().Addr():
		return target{}, "the authority is the address of another host"
	}
	to.name, to.port = name, port
	if to.path, ok = originForm(r); !ok {
		return target{}, "the request target isn't a path"
	}
	return to, ""
}

// is reports whether the target is a name at a port.
func (t target) is(name string, port uint16) bool {
	return t.name == name && (t.port < 0 || t.port == int(port))
}

// authority returns the target's host and port for the upstream; without a name
// the address is the host.
func (t target) authority(asked netip.AddrPort) string {
	host := t.name
	if host == "" {
		if host = asked.Addr().String(); asked.Addr().Is6() {
			host = "[" + host + "]"
		}
	}
	if t.port >= 0 {
		return host + ":" + strconv.Itoa(t.port)
	}
	return host
}

// unambiguous returns what is wrong with the head of a request of HTTP/2 that
// net/http lets pass, and that a server might read in another way.
func unambiguous(r *http.Request) (problem string) {
	if !httpguts.ValidHeaderFieldName(r.Method) { // both are tokens
		return "the method isn't a token"
	}
	if strings.ContainsAny(r.RequestURI, " #") { // whose server speaks HTTP/1 behind HTTP/2 would see it end there
		return "the path holds a blank or a fragment"
	}
	for _, host := range r.Header["Host"] {
		if host != r.Host || len(r.Header["Host"]) > 1 {
			return "the Host field and :authority differ"
		}
	}
	r.Header.Del("Host")
	for _, length := range r.Header["Content-Length"] {
		if length != strconv.FormatInt(r.ContentLength, 10) {
			return "the Content-Length isn't that of the body"
		}
	}
	return ""
}

// originForm returns a request's target as servers are asked: the path with its
// query, byte for byte, or * for OPTIONS. The absolute form is for proxies.
func originForm(r *http.Request) (path string, ok bool) {
	uri := r.RequestURI
	if strings.HasPrefix(uri, "/") || uri == "*" && r.Method == http.MethodOptions {
		return uri, true
	}
	if r.ProtoMajor != 1 || !r.URL.IsAbs() {
		return "", false
	}
	_, rest, _ := strings.Cut(uri, "://")
	switch i := strings.IndexAny(rest, "/?"); {
	case i < 0 && r.Method == http.MethodOptions:
		return "*", true
	case i < 0:
		return "/", true
	case rest[i] == '?':
		return "/" + rest[i:], true
	default:
		return rest[i:], true
	}
}

// newReverseProxy returns what forwards the requests of all sessions.
func (p *Proxy) newReverseProxy() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite:        rewrite,
		Transport:      bySession{},
		FlushInterval:  -1, // what the upstream has said the guest hears at once
		ErrorLog:       silent(),
		BufferPool:     newBufferPool(),
		ModifyResponse: modifyResponse,
		ErrorHandler:   answerError,
	}
}

// bySession forwards a request on its session's own connection.
type bySession struct{}

// RoundTrip implements [http.RoundTripper].
func (bySession) RoundTrip(r *http.Request) (*http.Response, error) {
	x := exchangeOf(r)
	if err := x.prepare(r); err != nil {
		return nil, err
	}
	return x.session.client.RoundTrip(r)
}

// rewrite turns a guest's request into ours. net/http writes it anew: nothing of
// the guest's framing is left.
func rewrite(pr *httputil.ProxyRequest) {
	x := exchangeOf(pr.In)
	s, to := x.session, x.to
	authority := to.authority(s.flow.Asked())
	path, query, found := strings.Cut(to.path, "?")
	u := &url.URL{Scheme: "http", Host: authority, Opaque: path, RawQuery: query, ForceQuery: found}
	if s.secure {
		u.Scheme = "https"
	}
	if strings.HasPrefix(path, "//") {
		// An Opaque that begins so would be read as an authority.
		u.Opaque, u.RawPath = "", path
		u.Path, _ = url.PathUnescape(path)
	}
	pr.Out.URL, pr.Out.Host = u, authority
	pr.Out.Trailer = pr.In.Trailer // filled while the body is read
	for _, k := range forwardedFields {
		if v, ok := pr.In.Header[k]; ok {
			pr.Out.Header[k] = v
		}
	}
}

// forwardedFields are headers that ReverseProxy takes away. They are the guest's:
// we are no hop that it knows of.
var forwardedFields = [...]string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"}

// eventName returns the name that an event shows for a request.
func eventName(s *session, r *http.Request) string {
	if s.name != "" {
		return s.name
	}
	name, _, _, _ := sniff.ParseAuthority(r.Host)
	return name
}

// eventPath returns the path that an event shows for a request.
func eventPath(r *http.Request) string {
	path := r.URL.EscapedPath()
	return path[:min(len(path), maxEventPath)]
}
