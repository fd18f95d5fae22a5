package mitm

import (
	"io"
	"net/http"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// TestCrowd has a guest open many connections, to a server that doesn't read: of
// those beyond the first ones little is held, and each still works.
func TestCrowd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	leave := make(chan struct{})
	w.serverLimits = &http.HTTP2Config{MaxReceiveBufferPerConnection: 64 << 10, MaxReceiveBufferPerStream: 64 << 10}
	w.serveTLS(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			<-leave
		}
		_, _ = io.Copy(rw, r.Body)
	}), nil)
	defer close(leave)
	window := func(f *framer) (bytes uint32) { // that the proxy opens at first
		_ = f.conn.SetReadDeadline(time.Now().Add(patience))
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if s, ok := frame.(*http2.SettingsFrame); ok && !s.IsAck() {
				bytes, _ = s.Value(http2.SettingInitialWindowSize)
				return bytes
			}
		}
	}
	for i := range roomyConns + 3 {
		f := newFramer(t, w)
		want := uint32(1 << 20)
		if i >= roomyConns {
			want = crowdedBytes
		}
		if got := window(f); got != want {
			t.Errorf("connection %d: window of %d, want %d", i, got, want)
		}
		if i >= roomyConns {
			if f.request(1, true, ":method: GET", ":scheme: https", ":path: /", ":authority: "+site); f.outcome(1) != "200" {
				t.Errorf("connection %d doesn't work", i)
			}
		}
	}
}
