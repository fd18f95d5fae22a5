package mitm

import (
	"bytes"
	"io"
	"net"
	"testing"
	"testing/iotest"

	"golang.org/x/net/http2"
)

// A readConn is a connection that is only read.
type readConn struct {
	net.Conn
	io.Reader
}

func (c readConn) Read(p []byte) (int, error) { return c.Reader.Read(p) }

// TestSmallFrames shows that of what a server sends only the size of frames
// changes, however it is split.
func TestSmallFrames(t *testing.T) {
	t.Parallel()
	stream := func(frame uint32) []byte {
		var b bytes.Buffer
		f := http2.NewFramer(&b, nil)
		_ = f.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 7}, http2.Setting{ID: http2.SettingMaxFrameSize, Val: frame}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
		_ = f.WriteSettingsAck()
		_ = f.WriteData(1, false, bytes.Repeat([]byte{0, 5, 1, 2, 3, 4}, 100)) // like a setting, but none
		_ = f.WritePing(false, [8]byte{0, 5, 0xff, 0xff, 0xff, 0xff})
		_ = f.WriteData(3, true, nil)
		_ = f.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: frame})
		_ = f.WriteGoAway(1, http2.ErrCodeNo, []byte("bye"))
		return b.Bytes()
	}
	sent, want := stream(1<<20), stream(16<<10)
	for name, split := range map[string]func(io.Reader) io.Reader{"whole": func(r io.Reader) io.Reader { return r }, "halves": iotest.HalfReader, "bytes": iotest.OneByteReader, "with the end": iotest.DataErrReader} {
		got, err := io.ReadAll(&smallFrames{Conn: readConn{Reader: split(bytes.NewReader(sent))}})
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, want)
		}
	}
}
