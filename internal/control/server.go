package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// maxBody bounds a request's body in bytes, for the same reason as maxMessage.
const maxBody = maxMessage

// A Server serves one sandbox on one listener.
type Server struct {
	http    http.Server
	streams *streams
	done    chan struct{} // closed when Serve's goroutine has ended
}

// Serve serves sb on l until Shutdown; it takes ownership of l. Connections of
// other users, or from other namespaces, are closed at once (see [Listen]).
func Serve(l net.Listener, sb Sandbox) *Server {
	h := &handler{sb: sb, streams: newStreams()}
	s := &Server{
		streams: h.streams,
		http: http.Server{
			Handler: h.mux(),
			// A header that is not whole by then is no curl and no Client.
			ReadHeaderTimeout: 10 * time.Second,
		},
		done: make(chan struct{}),
	}
	go s.serve(l)
	return s
}

func (s *Server) serve(l net.Listener) {
	defer close(s.done)
	// The error is always that of Shutdown: accept errors are retried.
	_ = s.http.Serve(l)
}

// Shutdown stops listening, waits for requests that are being answered and for
// streams until ctx ends, then cuts them off. Afterwards nothing of the server
// runs.
func (s *Server) Shutdown(ctx context.Context) {
	if s.http.Shutdown(ctx) != nil {
		_ = s.http.Close() // cuts off; only double closing can fail
	}
	s.streams.shutdown(ctx)
	<-s.done
}

// A handler answers requests.
type handler struct {
	sb      Sandbox
	streams *streams
}

func (h *handler) mux() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/sandbox", h.info)
	mux.HandleFunc("GET /v1/wait", h.wait)
	mux.HandleFunc("GET /v1/events", h.events)
	mux.HandleFunc("POST /v1/run", h.run)
	mux.HandleFunc("POST /v1/signal", h.signal)
	mux.HandleFunc("POST /v1/stop", h.stop)
	mux.HandleFunc("POST /v1/kill", h.kill)
	mux.HandleFunc("GET /v1/ports", h.ports)
	mux.HandleFunc("POST /v1/ports", h.publish)
	mux.HandleFunc("POST /v1/ports/remove", h.unpublish)
	mux.HandleFunc("POST /v1/ping", h.ping)
	h.serveGuest(mux)
	h.serveLife(mux)
	h.serveNetwork(mux)
	h.serveSecrets(mux)
	h.serveRecords(mux)
	mux.HandleFunc("/", h.unknown)
	return mux
}

func (h *handler) info(w http.ResponseWriter, _ *http.Request) {
	reply(w, h.sb.Info())
}

func (h *handler) wait(w http.ResponseWriter, r *http.Request) {
	ended, err := h.sb.Wait(r.Context())
	if err != nil {
		fail(w, err)
		return
	}
	reply(w, ended)
}

func (h *handler) run(w http.ResponseWriter, r *http.Request) {
	var cmd Command
	if !command(w, r, &cmd) {
		return
	}
	exit, err := h.sb.Run(r.Context(), cmd)
	if err != nil {
		fail(w, err)
		return
	}
	reply(w, exit)
}

type signalRequest struct {
	Signal int `json:"signal"`
}

func (h *handler) signal(w http.ResponseWriter, r *http.Request) {
	var req signalRequest
	if !body(w, r, &req) {
		return
	}
	if err := checkSignal(req.Signal); err != nil {
		fail(w, err)
		return
	}
	if err := h.sb.Signal(req.Signal); err != nil {
		fail(w, err)
		return
	}
	reply(w, struct{}{})
}

// checkSignal reports a number that is no signal's on Linux.
func checkSignal(n int) error {
	if n < 1 || n > 64 {
		return &Failure{Kind: KindArgument, Message: fmt.Sprintf("signal: %d: want 1 to 64", n)}
	}
	return nil
}

// command decodes a request's body as a command.
func command(w http.ResponseWriter, r *http.Request, cmd *Command) bool {
	if !body(w, r, cmd) {
		return false
	}
	if len(cmd.Args) == 0 || cmd.Args[0] == "" {
		fail(w, &Failure{Kind: KindArgument, Message: "args: want at least the program"})
		return false
	}
	return true
}

// A stopRequest is the body of stop and kill.
type stopRequest struct {
	TimeoutMs int64 `json:"timeout_ms"`
	// NoWait answers at once, with an Ended that says nothing.
	NoWait bool `json:"no_wait,omitempty"`
}

// maxStopTimeout keeps the arithmetic of a timeout sane; nobody waits a day.
const maxStopTimeout = 24 * time.Hour

func (h *handler) stop(w http.ResponseWriter, r *http.Request) {
	var req stopRequest
	if !body(w, r, &req) {
		return
	}
	if req.TimeoutMs < 0 || req.TimeoutMs > maxStopTimeout.Milliseconds() {
		fail(w, &Failure{Kind: KindArgument, Message: fmt.Sprintf("timeout_ms: %d: want 0 to %d", req.TimeoutMs, maxStopTimeout.Milliseconds())})
		return
	}
	h.sb.Stop(time.Duration(req.TimeoutMs) * time.Millisecond)
	h.ending(w, r, req.NoWait)
}

func (h *handler) kill(w http.ResponseWriter, r *http.Request) {
	var req stopRequest
	if r.ContentLength != 0 && !body(w, r, &req) {
		return
	}
	h.sb.Kill()
	h.ending(w, r, req.NoWait)
}

// ending answers a request to end, when it has been done unless the client
// doesn't want to wait.
func (h *handler) ending(w http.ResponseWriter, r *http.Request, noWait bool) {
	if noWait {
		reply(w, Ended{})
		return
	}
	h.wait(w, r)
}

func (h *handler) ping(w http.ResponseWriter, _ *http.Request) {
	reply(w, Pong{Status: h.sb.Info().Status})
}

func (h *handler) ports(w http.ResponseWriter, _ *http.Request) {
	reply(w, h.sb.Ports())
}

func (h *handler) publish(w http.ResponseWriter, r *http.Request) {
	var p Port
	if !body(w, r, &p) {
		return
	}
	if p.GuestPort == 0 {
		fail(w, &Failure{Kind: KindArgument, Message: "guest_port: 0: want 1 to 65535"})
		return
	}
	bound, err := h.sb.Publish(p)
	if err != nil {
		fail(w, err)
		return
	}
	reply(w, bound)
}

func (h *handler) unpublish(w http.ResponseWriter, r *http.Request) {
	var p Port
	if !body(w, r, &p) {
		return
	}
	if err := h.sb.Unpublish(p); err != nil {
		fail(w, err)
		return
	}
	reply(w, struct{}{})
}

func (h *handler) unknown(w http.ResponseWriter, r *http.Request) {
	fail(w, &Failure{Kind: KindUnsupported, Message: fmt.Sprintf("%s %s: no such operation", r.Method, r.URL.Path)})
}

// body decodes a request's body into v. Unknown fields are refused: what they
// ask for would not happen.
func body(w http.ResponseWriter, r *http.Request, v any) bool {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		fail(w, &Failure{Kind: KindArgument, Message: "request: " + err.Error()})
		return false
	}
	return true
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the peer is gone, then
}

// statuses are the HTTP statuses of the kinds; others are 500.
var statuses = map[string]int{
	KindArgument:    http.StatusBadRequest,
	KindInvalid:     http.StatusBadRequest,
	KindUnsupported: http.StatusNotImplemented,
	KindMetrics:     http.StatusNotImplemented,
	KindNotFound:    http.StatusNotFound,
	KindNotRunning:  http.StatusConflict,
	KindViolation:   http.StatusConflict,
	KindExists:      http.StatusConflict,
	KindExecFailed:  http.StatusUnprocessableEntity,
}

func fail(w http.ResponseWriter, err error) {
	f := AsFailure(err)
	status, ok := statuses[f.Kind]
	if !ok {
		status = http.StatusInternalServerError
	}
	failStatus(w, status, f)
}

func failStatus(w http.ResponseWriter, status int, f *Failure) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(f) // as in reply
}

// AsFailure returns err as a Failure; what is none is the end of a context, or
// internal.
func AsFailure(err error) *Failure {
	var f *Failure
	switch {
	case errors.As(err, &f):
		return f
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return &Failure{Kind: KindCancelled, Message: err.Error()}
	case errors.Is(err, errors.ErrUnsupported):
		return &Failure{Kind: KindUnsupported, Message: err.Error()}
	}
	return &Failure{Kind: KindInternal, Message: err.Error()}
}
