package control

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestShutdownCuts checks that a server's end ends streams that don't end
// themselves, and that there are none afterwards.
func TestShutdownCuts(t *testing.T) {
	t.Parallel()
	sb := &guestStub{stub: newStub(), programs: map[string]program{"hang": hang}}
	socket := filepath.Join(t.TempDir(), "s")
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	s := Serve(l, sb)
	c := NewClient(socket)
	defer c.Close()
	e := startExec(t, c, Command{Args: []string{"hang"}})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	s.Shutdown(ctx)
	<-sb.started[0].done
	if _, err := e.Recv(t.Context()); !errors.Is(err, ErrGone) {
		t.Errorf("after the end: %v", err)
	}
	if err := s.streams.reserve(new(stream)); err == nil {
		t.Error("takes streams after its end")
	}
}

// TestStreams checks files and connections.
func TestStreams(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	_, c := serveGuestStub(t, nil)
	files, err := c.SFTP(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	conn, err := c.Dial(ctx, "tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for name, rw := range map[string]io.ReadWriter{"sftp": files, "dial": conn} {
		if _, err := io.WriteString(rw, "hello."); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(rw); err != nil || string(got) != "hello.bye" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	var f *Failure
	if _, err := c.Dial(ctx, "tcp", "refused"); !errors.As(err, &f) || f.Kind != KindIO {
		t.Errorf("refused: %v", err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := c.SFTP(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestUpgradeRefused checks requests that aren't upgrades, and the bound.
func TestUpgradeRefused(t *testing.T) {
	t.Parallel()
	sb := &guestStub{stub: newStub(), programs: map[string]program{"cat": cat}}
	h := &handler{sb: sb, streams: newStreams()}
	post := func(upgrade string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodPost, "/v1/exec", strings.NewReader(`{"args":["cat"]}`))
		if upgrade != "" {
			r.Header.Set("Connection", "Upgrade")
			r.Header.Set("Upgrade", upgrade)
		}
		h.mux().ServeHTTP(w, r)
		return w
	}
	for _, upgrade := range []string{"", "sluice-exec/2", "websocket"} {
		if w := post(upgrade); w.Code != http.StatusUpgradeRequired || w.Header().Get("Upgrade") != execProtocol {
			t.Errorf("upgrade %q: %d %s", upgrade, w.Code, w.Body)
		}
	}
	if w := post(execProtocol); w.Code != http.StatusInternalServerError && w.Code != http.StatusNotImplemented { // a recorder can't
		t.Errorf("%d %s", w.Code, w.Body)
	}
	for range maxStreams {
		if err := h.streams.reserve(new(stream)); err != nil {
			t.Fatal(err)
		}
	}
	if w := post(execProtocol); !strings.Contains(w.Body.String(), "streams are open already") {
		t.Errorf("over the bound: %d %s", w.Code, w.Body)
	}
}
