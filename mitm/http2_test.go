package mitm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// A framer is a guest that speaks HTTP/2 frame by frame.
type framer struct {
	t *testing.T
	*http2.Framer
	conn net.Conn
	enc  *hpack.Encoder
	buf  bytes.Buffer
}

// newFramer opens a connection and sends preface and settings.
func newFramer(t *testing.T, w *world) *framer {
	t.Helper()
	return newFramerOn(t, w.mustHandshake("h2"))
}

// newFramerOn is newFramer on a connection that is open.
func newFramerOn(t *testing.T, c net.Conn) *framer {
	t.Helper()
	f := &framer{t: t, conn: c, Framer: http2.NewFramer(c, c)}
	f.enc = hpack.NewEncoder(&f.buf)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	f.AllowIllegalWrites = true
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return f
}

// request sends the head of a request: fields in order, "name: value", of which
// those of the site's GET that aren't given come first.
func (f *framer) request(stream uint32, end bool, fields ...string) {
	f.t.Helper()
	f.buf.Reset()
	for _, field := range fields {
		name, value, _ := strings.Cut(field[1:], ": ")
		if err := f.enc.WriteField(hpack.HeaderField{Name: field[:1] + name, Value: value}); err != nil {
			f.t.Fatal(err)
		}
	}
	if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: f.buf.Bytes(), EndHeaders: true, EndStream: end}); err != nil {
		f.t.Fatal(err)
	}
}

// outcome returns how a stream ended: its status, "reset", or "closed" with the
// connection.
func (f *framer) outcome(stream uint32) string {
	f.t.Helper()
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return "closed"
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			if frame.StreamID == stream {
				return frame.PseudoValue("status")
			}
		case *http2.RSTStreamFrame:
			if frame.StreamID == stream {
				return "reset"
			}
		case *http2.GoAwayFrame:
			if frame.ErrCode != http2.ErrCodeNo {
				return "closed"
			}
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				_ = f.WriteSettingsAck()
			}
		}
	}
}

// TestHTTP2Requests shows what becomes of requests whose fields are in doubt: row
// T-16, and RFC 9113, sections 8.2 and 8.3.
func TestHTTP2Requests(t *testing.T) {
	t.Parallel()
	const method, scheme, path, authority = ":method: GET", ":scheme: https", ":path: /", ":authority: " + site
	for _, row := range []struct {
		name   string
		fields []string
		want   string // "refused" is anything but the server's answer
	}{
		{"in order", []string{method, scheme, path, authority}, "200"},
		{"a port", []string{method, scheme, path, authority + ":443"}, "200"},
		{"upper case", []string{method, scheme, path, ":authority: WWW.EXAMPLE.com"}, "200"},
		{"Host instead", []string{method, scheme, path, "host: " + site}, "200"},
		{"Host besides, the same", []string{method, scheme, path, authority, "host: " + site}, "200"},
		{"another authority", []string{method, scheme, path, ":authority: evil.example"}, "421"},
		{"another port", []string{method, scheme, path, authority + ":8443"}, "421"},
		{"another host", []string{method, scheme, path, "host: evil.example"}, "421"},
		{"no authority", []string{method, scheme, path}, "421"},
		{"its address", []string{method, scheme, path, ":authority: " + address}, "421"},
		{"Host besides, another", []string{method, scheme, path, authority, "host: evil.example"}, "400"},
		{"Host besides, twice", []string{method, scheme, path, authority, "host: " + site, "host: " + site}, "400"},
		{"user information", []string{method, scheme, path, ":authority: a@" + site}, "refused"},
		{"two authorities", []string{method, scheme, path, authority, ":authority: evil.example"}, "refused"},
		{"two paths", []string{method, scheme, path, ":path: /x", authority}, "refused"},
		{"an unknown pseudo field", []string{method, scheme, path, authority, ":x: y"}, "refused"},
		{"a response's pseudo field", []string{method, scheme, path, authority, ":status: 200"}, "refused"},
		{"a pseudo field behind others", []string{method, scheme, path, "x: y", authority}, "refused"},
		{"no path", []string{method, scheme, authority}, "refused"},
		{"empty path", []string{method, scheme, ":path: ", authority}, "refused"},
		{"path without a slash", []string{method, scheme, ":path: x", authority}, "refused"},
		{"absolute path", []string{method, scheme, ":path: https://evil.example/", authority}, "refused"},
		{"another scheme", []string{method, ":scheme: ftp", path, authority}, "refused"},
		{"name in upper case", []string{method, scheme, path, authority, "X-Upper: y"}, "refused"},
		{"blank in a name", []string{method, scheme, path, authority, "x y: z"}, "refused"},
		{"line break in a value", []string{method, scheme, path, authority, "x: y\r\nz: w"}, "refused"},
		{"NUL in a value", []string{method, scheme, path, authority, "x: y\x00"}, "refused"},
		{"blank in the method", []string{":method: GET /", scheme, path, authority}, "refused"},
		{"blank in the path", []string{method, scheme, ":path: /a b", authority}, "400"},
		{"fragment in the path", []string{method, scheme, ":path: /a#b", authority}, "400"},
		{"line break in the path", []string{method, scheme, ":path: /\r\nx", authority}, "refused"},
		{"line break in the authority", []string{method, scheme, path, authority + "\r\nx: y"}, "refused"},
		{"Connection", []string{method, scheme, path, authority, "connection: close"}, "refused"},
		{"Transfer-Encoding", []string{method, scheme, path, authority, "transfer-encoding: chunked"}, "refused"},
		{"Upgrade", []string{method, scheme, path, authority, "upgrade: websocket"}, "refused"},
		{"TE", []string{method, scheme, path, authority, "te: gzip"}, "refused"},
		{"TE: trailers", []string{method, scheme, path, authority, "te: trailers"}, "200"},
		{"a length without a body", []string{":method: POST", scheme, path, authority, "content-length: 4"}, "refused"},
		{"two lengths", []string{":method: POST", scheme, path, authority, "content-length: 0", "content-length: 4"}, "refused"},
		{"CONNECT", []string{":method: CONNECT", ":authority: " + site + ":443"}, "421"},
		{"extended CONNECT", []string{":method: CONNECT", ":protocol: websocket", scheme, path, authority}, "refused"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Config{})
			var served atomic.Int64
			w.serveTLS(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if _, err := io.Copy(io.Discard, r.Body); err == nil {
					served.Add(1)
				}
			}), nil)
			f := newFramer(t, w)
			f.request(1, true, row.fields...)
			got := f.outcome(1)
			if row.want == "refused" && (got == "200" || served.Load() != 0) || row.want != "refused" && got != row.want {
				t.Errorf("got %s, %d requests reached the server, want %s", got, served.Load(), row.want)
			}
		})
	}
}

// TestHTTP2PlainNames shows which name a request of plain HTTP/2 is decided by, and
// that one which servers could take for another counts as none: some decode
// "evil.example%2f", or cut at a comma, and a resolver answers for any label.
func TestHTTP2PlainNames(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ authority, want string }{
		{site, "200"},
		{"WWW.Example.com.:8080", "200"},
		{address, "200"},
		{"evil.example", "421"},
		{"evil.example%2f." + site, "400"},
		{"evil.example%00." + site, "400"},
		{"evil.example,x." + site, "400"},
		{"evil.example;." + site, "400"},
		{"*." + site, "400"},
		{"(evil.example)." + site, "400"},
		{"10.0.0.1", "400"},
		{"[::ffff:" + address + "]", "400"},
		{site + ":http", "400"},
		{site + ":+80", "400"},
	} {
		t.Run(row.authority, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Config{})
			w.servePlain(http.HandlerFunc(hello))
			w.deny("evil.example")
			f := newFramerOn(t, w.dialGuest(80))
			f.request(1, true, ":method: GET", ":scheme: http", ":path: /", ":authority: "+row.authority)
			if got := f.outcome(1); got != row.want {
				t.Errorf("got %s, want %s", got, row.want)
			}
		})
	}
}

// TestHTTP2Frames shows what becomes of connections that break the rules of
// frames: the checks of h2spec that guard memory and order. They end, and the
// server sees nothing. It covers the sections of RFC 9113 that are named; HPACK's
// own (RFC 7541) and priorities aren't among them.
func TestHTTP2Frames(t *testing.T) {
	t.Parallel()
	good := []string{":method: GET", ":scheme: https", ":path: /", ":authority: " + site}
	for _, row := range []struct {
		name   string
		broken func(f *framer)
	}{
		{"3.4: no preface", nil},
		{"4.1: a frame over the limit", func(f *framer) { _ = f.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, 2<<20)) }},
		{"4.3: field block that isn't one", func(f *framer) {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, EndHeaders: true, EndStream: true})
		}},
		{"5.1: DATA on an idle stream", func(f *framer) { _ = f.WriteData(1, true, []byte("x")) }},
		{"5.1: RST_STREAM on an idle stream", func(f *framer) { _ = f.WriteRSTStream(1, http2.ErrCodeCancel) }},
		{"5.1: WINDOW_UPDATE on an idle stream", func(f *framer) { _ = f.WriteWindowUpdate(1, 1) }},
		{"5.1.1: even stream", func(f *framer) { f.request(2, true, good...) }},
		{"5.1.1: stream 0", func(f *framer) { f.request(0, true, good...) }},
		{"6.1: DATA on stream 0", func(f *framer) { _ = f.WriteRawFrame(http2.FrameData, 0, 0, []byte("x")) }},
		{"6.5: SETTINGS on a stream", func(f *framer) { _ = f.WriteRawFrame(http2.FrameSettings, 0, 1, nil) }},
		{"6.5: SETTINGS of odd length", func(f *framer) { _ = f.WriteRawFrame(http2.FrameSettings, 0, 0, []byte{1, 2, 3}) }},
		{"6.5: acknowledgement with content", func(f *framer) { _ = f.WriteRawFrame(http2.FrameSettings, http2.FlagSettingsAck, 0, make([]byte, 6)) }},
		{"6.5.2: window over 2^31-1", func(f *framer) { _ = f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31}) }},
		{"6.5.2: frame size too small", func(f *framer) { _ = f.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1}) }},
		{"6.6: PUSH_PROMISE from a client", func(f *framer) {
			_ = f.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, BlockFragment: []byte{0x82}, EndHeaders: true})
		}},
		{"6.7: PING of odd length", func(f *framer) { _ = f.WriteRawFrame(http2.FramePing, 0, 0, []byte{1}) }},
		{"6.9: WINDOW_UPDATE by 0", func(f *framer) { _ = f.WriteRawFrame(http2.FrameWindowUpdate, 0, 0, make([]byte, 4)) }},
		{"6.9.1: window overflow", func(f *framer) { _ = f.WriteWindowUpdate(0, 1<<31-1) }},
		{"6.10: CONTINUATION without HEADERS", func(f *framer) { _ = f.WriteContinuation(1, true, []byte{0x82}) }},
		{"6.10: another frame before CONTINUATION", func(f *framer) {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}})
			_ = f.WritePing(false, [8]byte{})
		}},
		{"6.10: CONTINUATION without end", func(f *framer) {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}})
			for range 100_000 {
				if f.WriteContinuation(1, false, bytes.Repeat([]byte{0x82}, 1000)) != nil {
					return
				}
			}
		}},
		{"8.1: a head without end", func(f *framer) {
			fields := append([]string{}, good...)
			for i := range 2000 {
				fields = append(fields, fmt.Sprintf("x-%d: %s", i, strings.Repeat("y", 1000)))
			}
			f.request(1, true, fields...)
		}},
		{"rapid resets (CVE-2023-44487)", func(f *framer) {
			for i := range uint32(20_000) {
				f.buf.Reset()
				for _, field := range good {
					name, value, _ := strings.Cut(field[1:], ": ")
					_ = f.enc.WriteField(hpack.HeaderField{Name: ":" + name, Value: value})
				}
				if f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: f.buf.Bytes(), EndHeaders: true}) != nil || f.WriteRSTStream(2*i+1, http2.ErrCodeCancel) != nil {
					return
				}
			}
			_ = f.WriteData(0, true, nil) // the flood itself is no error: only its bound counts
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Config{})
			w.serveTLS(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), nil)
			var c net.Conn
			if row.broken == nil {
				c = w.mustHandshake("h2")
				_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: "+site+"\r\n\r\n")
			} else {
				f := newFramer(t, w)
				c = f.conn
				go func() { // the other direction, so that nobody waits for a reader
					row.broken(f)
				}()
			}
			_ = c.SetReadDeadline(time.Now().Add(patience))
			if err := drain(c); isTimeout(err) {
				t.Error("the connection was kept")
			}
		})
	}
}

// drain reads to the end, and returns what that was.
func drain(c net.Conn) error {
	_, err := io.Copy(io.Discard, c)
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
