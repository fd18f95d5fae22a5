package control

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
)

// serveGuest serves what concerns the guest: commands, files, connections.
func (h *handler) serveGuest(mux *http.ServeMux) {
	mux.HandleFunc("POST /v1/exec", h.exec)
	mux.HandleFunc("GET /v1/sftp", func(w http.ResponseWriter, r *http.Request) {
		if !asks(w, r, sftpProtocol) {
			return
		}
		inner, err := h.sb.SFTP(r.Context())
		h.join(w, r, sftpProtocol, inner, err)
	})
	mux.HandleFunc("POST /v1/dial", func(w http.ResponseWriter, r *http.Request) {
		var req dialRequest
		if !asks(w, r, dialProtocol) || !body(w, r, &req) {
			return
		}
		inner, err := h.sb.Dial(r.Context(), req.Network, req.Address)
		h.join(w, r, dialProtocol, inner, err)
	})
}

// join answers a request for a stream with inner, which it closes, or its error.
func (h *handler) join(w http.ResponseWriter, r *http.Request, protocol string, inner io.ReadWriteCloser, err error) {
	if err != nil {
		fail(w, err)
		return
	}
	defer inner.Close()
	s, ok := h.streams.accept(w, r, protocol)
	if !ok {
		return
	}
	defer h.streams.end(s)
	splice(s, inner)
}

func (h *handler) serveLife(mux *http.ServeMux) {
	mux.HandleFunc("POST /v1/touch", func(w http.ResponseWriter, _ *http.Request) { reply(w, h.sb.Touch()) })
	mux.HandleFunc("POST /v1/drain", func(w http.ResponseWriter, _ *http.Request) {
		h.sb.Drain()
		reply(w, struct{}{})
	})
	mux.HandleFunc("POST /v1/detach", func(w http.ResponseWriter, _ *http.Request) { done(w, h.sb.Detach()) })
}

func (h *handler) serveNetwork(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/flows", func(w http.ResponseWriter, _ *http.Request) { reply(w, h.sb.Flows()) })
	mux.HandleFunc("GET /v1/stats", func(w http.ResponseWriter, _ *http.Request) { reply(w, h.sb.Stats()) })
	mux.HandleFunc("POST /v1/network", func(w http.ResponseWriter, r *http.Request) {
		var config json.RawMessage
		if !body(w, r, &config) {
			return
		}
		updated, err := h.sb.Update(config)
		answer(w, updated, err)
	})
	mux.HandleFunc("POST /v1/explain", func(w http.ResponseWriter, r *http.Request) {
		var req explainRequest
		if !body(w, r, &req) {
			return
		}
		e, err := h.sb.Explain(req.Target)
		answer(w, e, err)
	})
}

func (h *handler) serveSecrets(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/secrets", func(w http.ResponseWriter, _ *http.Request) { reply(w, h.sb.Secrets()) })
	mux.HandleFunc("PUT /v1/secrets/{name}", func(w http.ResponseWriter, r *http.Request) {
		var req secretRequest
		if !body(w, r, &req) {
			return
		}
		done(w, h.sb.SetSecret(r.PathValue("name"), req.Value))
	})
	mux.HandleFunc("DELETE /v1/secrets/{name}", func(w http.ResponseWriter, r *http.Request) {
		done(w, h.sb.RemoveSecret(r.PathValue("name")))
	})
}

func (h *handler) serveRecords(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/metrics", func(w http.ResponseWriter, _ *http.Request) {
		m, err := h.sb.Metrics()
		answer(w, m, err)
	})
	mux.HandleFunc("GET /v1/logs", func(w http.ResponseWriter, r *http.Request) {
		q, err := parseLogQuery(r.URL.Query())
		if err != nil {
			fail(w, err)
			return
		}
		rc := http.NewResponseController(w)
		w.Header().Set("Content-Type", "application/x-ndjson")
		var lines bytes.Buffer
		encode := json.NewEncoder(&lines)
		err = h.sb.Logs(r.Context(), q, func(entries []LogEntry) error {
			lines.Reset()
			for i := range entries {
				if err := encode.Encode(&entries[i]); err != nil {
					return err
				}
			}
			if _, err := w.Write(lines.Bytes()); err != nil || !q.Follow {
				return err
			}
			return rc.Flush()
		})
		if err != nil && r.Context().Err() == nil {
			fail(w, err) // a status that comes too late is dropped; the line is no entry
		}
	})
}

// answer replies v, or the error.
func answer(w http.ResponseWriter, v any, err error) {
	if err != nil {
		fail(w, err)
		return
	}
	reply(w, v)
}

// done replies that what was asked for has been done, or the error.
func done(w http.ResponseWriter, err error) { answer(w, struct{}{}, err) }
