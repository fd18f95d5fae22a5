package memnet_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/netlab"
	"github.com/sluicenet/sluice/internal/netlab/memnet"
	"github.com/sluicenet/sluice/vnet"
	"github.com/sluicenet/sluice/vnet/link"
)

func TestMain(m *testing.M) { netlab.Main(m) }

var _ vnet.Dialer = (*memnet.Internet)(nil)

// pair returns two guests, 10.0.0.1 and 10.0.0.2, on one card each.
func pair(t *testing.T, mtu int) (one, two *memnet.Guest) {
	t.Helper()
	a, b := memnet.Pipe()
	config := func(l link.Link, number byte) memnet.Config {
		return memnet.Config{
			Link: l,
			MAC:  net.HardwareAddr{2, 0, 0, 0, 0, number},
			Addrs: []netip.Prefix{
				netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, number}), 30),
				netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 15: number}), 64),
			},
			MTU: mtu,
		}
	}
	return memnet.NewGuest(t, config(a, 1)), memnet.NewGuest(t, config(b, 2))
}

func TestGuestTCP(t *testing.T) {
	t.Parallel()
	for _, mtu := range []int{0, 1280, 65520} {
		one, two := pair(t, mtu)
		for _, address := range []string{"10.0.0.2:80", "[fd00::2]:80"} {
			l, err := two.Listen(address)
			if err != nil {
				t.Fatal(err)
			}
			go func() { // ends with the connection
				c, err := l.Accept()
				if err == nil {
					io.Copy(c, c)
					c.Close()
				}
			}()
			c, err := one.Dial(t.Context(), "tcp", address)
			if err != nil {
				t.Fatalf("dial %s: %v", address, err)
			}
			want := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
			go func() {
				c.Write(want)
				c.(interface{ CloseWrite() error }).CloseWrite()
			}()
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("echo by %s, MTU %d: %d bytes, %v, want the %d sent", address, mtu, len(got), err, len(want))
			}
			c.Close()
			l.Close()
		}
		if _, err := one.Dial(t.Context(), "tcp", "10.0.0.2:81"); err == nil {
			t.Error("a closed port accepted")
		}
	}
}

func TestGuestUDP(t *testing.T) {
	t.Parallel()
	one, two := pair(t, 0)
	for _, address := range []string{"10.0.0.2:53", "[fd00::2]:53"} {
		server, err := two.ListenPacket(address)
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		c, err := one.Dial(t.Context(), "udp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		server.SetDeadline(time.Now().Add(10 * time.Second))
		buf := make([]byte, 4000)
		if _, err := c.Write(make([]byte, 3000)); err != nil { // fragments
			t.Fatal(err)
		}
		n, from, err := server.ReadFrom(buf)
		if err != nil || n != 3000 {
			t.Fatalf("server %s read %d bytes, %v, want 3000", address, n, err)
		}
		server.WriteTo([]byte("reply"), from)
		if n, err := c.Read(buf); err != nil || string(buf[:n]) != "reply" {
			t.Errorf("client of %s read %q, %v", address, buf[:n], err)
		}
	}
}

func TestSendAndWatch(t *testing.T) {
	t.Parallel()
	one, two := pair(t, 0)
	frames := two.Watch(t, 16)
	junk := append(bytes.Repeat([]byte{0xff}, 12), "\x88\xb5 any bytes at all"...)
	if err := one.Send(junk); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-frames:
		if !bytes.Equal(got, junk) {
			t.Errorf("watched %x, want %x", got, junk)
		}
	case <-time.After(10 * time.Second):
		t.Error("no frame came")
	}
}

func TestInternet(t *testing.T) {
	t.Parallel()
	n := memnet.NewInternet()
	defer n.Close()
	n.TCP("93.184.216.34:80", func(c net.Conn) { io.WriteString(c, "hello") })
	n.TCP("[2606:2800:220::34]:80", func(c net.Conn) { io.Copy(io.Discard, c) })
	n.Fail("93.184.216.34:81", syscall.EHOSTUNREACH)
	n.Hang("93.184.216.34:82")
	for _, row := range []struct {
		address string
		want    error
	}{
		{"93.184.216.34:80", nil},
		{"[2606:2800:220::34]:80", nil},
		{"93.184.216.34:81", syscall.EHOSTUNREACH},
		{"93.184.216.34:82", context.DeadlineExceeded},
		{"93.184.216.35:80", syscall.ECONNREFUSED},
		{"127.0.0.1:1", syscall.ECONNREFUSED},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if row.want == context.DeadlineExceeded {
			ctx, cancel = context.WithTimeout(t.Context(), 10*time.Millisecond)
		}
		c, err := n.DialTCP(ctx, netip.MustParseAddrPort(row.address))
		cancel()
		if !errors.Is(err, row.want) {
			t.Errorf("dial %s: %v, want %v", row.address, err, row.want)
		}
		if c == nil {
			continue
		}
		if row.address == "93.184.216.34:80" {
			if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
				t.Errorf("read from %s: %q, %v", row.address, got, err)
			}
		}
		c.Close()
	}
	if got := len(n.Dialed()); got != 6 {
		t.Errorf("%d addresses dialled, want 6", got)
	}
}

func TestInternetClosesItsServers(t *testing.T) {
	t.Parallel()
	n := memnet.NewInternet()
	n.TCP("93.184.216.34:80", func(c net.Conn) { io.Copy(io.Discard, c) })
	c, err := n.DialTCP(t.Context(), netip.MustParseAddrPort("93.184.216.34:80"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	n.Close()
	if _, err := io.ReadAll(c); err != nil {
		t.Error(err)
	}
	if _, err := n.DialTCP(t.Context(), netip.MustParseAddrPort("93.184.216.34:80")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("dial after Close: %v, want %v", err, net.ErrClosed)
	}
}

// TestDatagramsStayOnLoopback shows that the socket handed out doesn't reach even
// the lab's hosts.
func TestDatagramsStayOnLoopback(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	h := lab.Host(t, "victim.example")
	watch := lab.Watch(t)
	n := memnet.NewInternet()
	c, err := n.ListenUDP(false)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.WriteToUDPAddrPort([]byte("out"), netip.MustParseAddrPort(h.Endpoint(4, 53))); err == nil {
		t.Error("the system took a datagram from loopback to elsewhere")
	}
	watch.None(t, h.To())
	if _, err := n.ListenUDP(true); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("IPv6: %v, want %v", err, errors.ErrUnsupported)
	}
	if _, err := n.ListenICMP(false); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("echo: %v, want %v", err, errors.ErrUnsupported)
	}
}

func TestPipe(t *testing.T) {
	t.Parallel()
	a, b := memnet.Pipe()
	offload := link.Offload{GSO: link.GSOTCPv4, SegmentSize: 1448}
	if n, err := a.WriteFrames([]link.Frame{{Data: []byte("one")}, {Data: []byte("t"), More: [][]byte{[]byte("w"), []byte("o")}, Offload: offload}}); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	frames := make([]link.Frame, 1)
	for _, want := range []link.Frame{{Data: []byte("one")}, {Data: []byte("two"), Offload: offload}} {
		if n, err := b.ReadFrames(frames); n != 1 || err != nil || !bytes.Equal(frames[0].Data, want.Data) || frames[0].Offload != want.Offload {
			t.Errorf("read %d, %v: %q %+v, want %q %+v", n, err, frames[0].Data, frames[0].Offload, want.Data, want.Offload)
		}
	}
	a.WriteFrames([]link.Frame{{Data: []byte("last")}})
	a.Close()
	a.Close()
	if n, err := b.ReadFrames(frames); n != 1 || err != nil {
		t.Errorf("read what was written before Close: %d, %v", n, err)
	}
	for _, row := range []struct {
		what string
		err  error
		want error
	}{
		{"read from a gone end", second(b.ReadFrames(frames)), io.EOF},
		{"write to a gone end", second(b.WriteFrames(frames)), io.EOF},
		{"read after Close", second(a.ReadFrames(frames)), net.ErrClosed},
		{"write after Close", second(a.WriteFrames(frames)), net.ErrClosed},
	} {
		if !errors.Is(row.err, row.want) {
			t.Errorf("%s: %v, want %v", row.what, row.err, row.want)
		}
	}
}

func TestPipeDrops(t *testing.T) {
	t.Parallel()
	a, b := memnet.Pipe()
	defer a.Close()
	defer b.Close()
	const extra = 10
	for range 4096 + extra {
		if _, err := a.WriteFrames([]link.Frame{{Data: []byte("frame")}}); err != nil {
			t.Fatal(err)
		}
	}
	if got := a.Dropped(); got != extra {
		t.Errorf("dropped %d, want %d", got, extra)
	}
	if got := b.Dropped(); got != 0 {
		t.Errorf("the other end dropped %d, want 0", got)
	}
}

func TestPipeCloseWakes(t *testing.T) {
	t.Parallel()
	a, b := memnet.Pipe()
	defer b.Close()
	done := make(chan error)
	go func() { done <- second(a.ReadFrames(make([]link.Frame, 1))) }()
	a.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v, want %v", err, net.ErrClosed)
	}
}

func second(_ int, err error) error { return err }
