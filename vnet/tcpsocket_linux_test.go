package vnet

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

	"golang.org/x/net/nettest"
	"golang.org/x/sys/unix"
)

// socketPair returns a tcpSocket and who accepted it.
func socketPair(t testing.TB, network, listen string) (*tcpSocket, *net.TCPConn) {
	t.Helper()
	l, err := net.Listen(network, listen)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := hostDialer{}.DialTCP(t.Context(), netip.MustParseAddrPort(l.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); peer.Close() })
	return c.(*tcpSocket), peer.(*net.TCPConn)
}

// TestTCPSocketConn is the library's own test of connections.
func TestTCPSocketConn(t *testing.T) {
	t.Parallel()
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		s, peer := socketPair(t, "tcp4", "127.0.0.1:0")
		return s, peer, func() { s.Close(); peer.Close() }, nil
	})
}

// TestTCPSocketAddresses compares the socket's addresses with its peer's.
func TestTCPSocketAddresses(t *testing.T) {
	t.Parallel()
	for network, listen := range map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0"} {
		s, peer := socketPair(t, network, listen)
		if s.LocalAddr().String() != peer.RemoteAddr().String() || s.RemoteAddr().String() != peer.LocalAddr().String() {
			t.Errorf("%v to %v, the peer says %v to %v", s.LocalAddr(), s.RemoteAddr(), peer.RemoteAddr(), peer.LocalAddr())
		}
		for option, want := range map[[2]int]int{
			{unix.IPPROTO_TCP, unix.TCP_NODELAY}: 1, {unix.SOL_SOCKET, unix.SO_KEEPALIVE}: 1,
			{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE}: 120, {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL}: 30, {unix.IPPROTO_TCP, unix.TCP_KEEPCNT}: 4,
		} {
			s.raw.Control(func(fd uintptr) {
				if got, err := unix.GetsockoptInt(int(fd), option[0], option[1]); got != want || err != nil {
					t.Errorf("option %v: %d, %v, want %d", option, got, err, want)
				}
			})
		}
	}
}

// TestTCPSocketDialErrors keeps the system's reasons, and gives up with its
// context: a full queue of accepts answers no SYN.
func TestTCPSocketDialErrors(t *testing.T) {
	t.Parallel()
	refusing, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refusing.Close()
	silent, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(silent)
	if err := errors.Join(unix.Bind(silent, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(silent, 0)); err != nil {
		t.Fatal(err)
	}
	sa, err := syscall.Getsockname(silent)
	if err != nil {
		t.Fatal(err)
	}
	full := addrPortOfSockaddr(sa)
	first, err := hostDialer{}.DialTCP(t.Context(), full)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()

	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	short, cancelShort := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancelShort()
	for _, tt := range []struct {
		name string
		ctx  context.Context
		to   netip.AddrPort
		want error
	}{
		{"refused", t.Context(), netip.MustParseAddrPort(refusing.Addr().String()), syscall.ECONNREFUSED},
		{"cancelled before", cancelled, full, context.Canceled},
		{"no answer in time", short, full, context.DeadlineExceeded},
		{"no such address", t.Context(), netip.MustParseAddrPort("[2001:db8::1]:1"), syscall.ENETUNREACH},
	} {
		if c, err := (hostDialer{}).DialTCP(tt.ctx, tt.to); !errors.Is(err, tt.want) && !(tt.want == syscall.ENETUNREACH && errors.Is(err, syscall.EADDRNOTAVAIL)) {
			t.Errorf("%s: %v, %v", tt.name, c, err)
		}
	}
}

// TestTCPSocketWriteAll gathers pieces of odd sizes past a slow reader: all arrive
// in order.
func TestTCPSocketWriteAll(t *testing.T) {
	t.Parallel()
	s, peer := socketPair(t, "tcp4", "127.0.0.1:0")
	s.raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, 8<<10) })
	peer.SetReadBuffer(8 << 10)
	all := randomBytes(300<<10, 5)
	go func() {
		for rest := all; len(rest) > 0; {
			var pieces [][]byte
			for i := 0; i < relayPieces && len(rest) > 0; i++ {
				k := min(i*i*7, len(rest)) // an empty one too
				pieces = append(pieces, rest[:k])
				rest = rest[k:]
			}
			if _, err := s.writeAll(pieces); err != nil {
				t.Error(err)
			}
		}
		if err := s.CloseWrite(); err != nil {
			t.Error(err)
		}
	}()
	if got := readSlowly(peer); !bytes.Equal(got, all) {
		t.Errorf("%d bytes arrived, changed or not all", len(got))
	}
}

// TestTCPSocketEnds closes and resets.
func TestTCPSocketEnds(t *testing.T) {
	t.Parallel()
	s, peer := socketPair(t, "tcp4", "127.0.0.1:0")
	s.SetLinger(0)
	s.Close()
	if _, err := peer.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the peer saw %v", err)
	}
	_, werr := s.writeAll([][]byte{{1}})
	_, rerr := s.Read(make([]byte, 1))
	for _, err := range []error{s.Close(), s.CloseWrite(), s.SetLinger(0), werr, rerr} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("behind the close: %v", err)
		}
	}
	s, peer = socketPair(t, "tcp4", "127.0.0.1:0")
	peer.Close()
	if _, err := s.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("behind the end: %v", err)
	}
	s.SetReadDeadline(time.Unix(1, 0))
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("behind the deadline: %v", err)
	}
}

// TestCheckPeer refuses a socket that has met itself.
func TestCheckPeer(t *testing.T) {
	t.Parallel()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Connect(fd, sa); err != nil {
		t.Fatal(err)
	}
	self, other := addrPortOfSockaddr(sa), netip.MustParseAddrPort("127.0.0.1:1")
	if err := checkPeer(fd, self, self); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("itself: %v", err)
	}
	if err := checkPeer(fd, self, other); err == nil || errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("another: %v", err)
	}
	s, _ := socketPair(t, "tcp4", "127.0.0.1:0")
	if peer, err := s.peerName(); err != nil {
		t.Error(err)
	} else if err := s.established(t.Context(), sockaddrOf(peer)); err != nil {
		t.Errorf("a server: %v", err)
	}
}
