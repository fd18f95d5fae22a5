package netlab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) { Main(m) }

// families are the IP versions that everything is tried over.
var families = []int{4, 6}

// run runs a program here and returns its output without the last line's end.
func run(t *testing.T, command string) (string, error) {
	t.Helper()
	args := strings.Fields(command)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, Tool(t, args[0]), args[1:]...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func TestHTTP(t *testing.T) {
	t.Parallel()
	lab := New(t)
	web := lab.Host(t, "web.example")
	web.HTTP(80, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Host) }))
	web.HTTPS(443, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) }))
	for _, row := range []struct{ args, want string }{
		{"-4 http://web.example/", "web.example"},
		{"-6 http://web.example/", "web.example"},
		{"-4 --http1.1 https://web.example/", "HTTP/1.1"},
		{"-6 --http2 https://web.example/", "HTTP/2.0"},
		{"--http2-prior-knowledge http://web.example/", "web.example"},
		{"https://" + web.Endpoint(4, 443) + "/", "HTTP/2.0"},
		{"https://" + web.Endpoint(6, 443) + "/", "HTTP/2.0"},
	} {
		got, err := run(t, "curl --silent --show-error --max-time 10 "+row.args)
		if err != nil || got != row.want {
			t.Errorf("curl %s: %q, %v, want %q", row.args, got, err, row.want)
		}
	}
}

func TestTCPServers(t *testing.T) {
	t.Parallel()
	h := New(t).Host(t, "tcp.example")
	h.TCP(7, Echo)
	h.TCP(19, Chargen)
	h.TCP(99, Discard)
	for _, family := range families {
		echo := dial(t, h.Endpoint(family, 7))
		io.WriteString(echo, "there and back")
		echo.(*net.TCPConn).CloseWrite()
		if got, err := io.ReadAll(echo); err != nil || string(got) != "there and back" {
			t.Errorf("echo over IPv%d: %q, %v", family, got, err)
		}
		if _, err := io.CopyN(io.Discard, dial(t, h.Endpoint(family, 19)), 1<<20); err != nil {
			t.Errorf("chargen over IPv%d: %v", family, err)
		}
		discard := dial(t, h.Endpoint(family, 99))
		if _, err := discard.Write(make([]byte, 1<<20)); err != nil {
			t.Errorf("discard over IPv%d: %v", family, err)
		}
		discard.(*net.TCPConn).CloseWrite()
		if got, err := io.ReadAll(discard); err != nil || len(got) > 0 {
			t.Errorf("discard over IPv%d: %q, %v, want nothing", family, got, err)
		}
	}
}

func TestUDPEcho(t *testing.T) {
	t.Parallel()
	h := New(t).Host(t, "udp.example")
	h.UDP(7, EchoDatagram)
	for _, family := range families {
		c, err := net.Dial("udp", h.Endpoint(family, 7))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		// The first datagram may be lost while the routers learn of each other.
		buf, n := make([]byte, 100), 0
		for try := 0; n == 0 && try < 10; try++ {
			c.SetDeadline(time.Now().Add(time.Second))
			io.WriteString(c, "datagram")
			n, err = c.Read(buf)
		}
		if err != nil || string(buf[:n]) != "datagram" {
			t.Errorf("echo over IPv%d: %q, %v", family, buf[:n], err)
		}
	}
}

func TestWhatADialSees(t *testing.T) {
	t.Parallel()
	lab := New(t)
	h := lab.Host(t, "errors.example")
	h.TCP(7, Echo)
	h.Drop(81)
	h.Prohibit(82)
	h.Unreachable(83)
	for _, row := range []struct {
		family int
		port   uint16
		want   error // nil: it connects
	}{
		{4, 7, nil},
		{6, 7, nil},
		{4, 80, syscall.ECONNREFUSED},
		{6, 80, syscall.ECONNREFUSED},
		{4, 81, errTimeout},
		{6, 81, errTimeout},
		{4, 82, syscall.EHOSTUNREACH},
		{6, 82, syscall.EACCES},
		{4, 83, syscall.ENETUNREACH},
		{6, 83, syscall.ENETUNREACH},
	} {
		d := net.Dialer{Timeout: 10 * time.Second}
		if row.want == errTimeout {
			d.Timeout = 300 * time.Millisecond
		}
		c, err := d.DialContext(t.Context(), "tcp", h.Endpoint(row.family, row.port))
		if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
			err = errTimeout
		}
		if !errors.Is(err, row.want) {
			t.Errorf("dial %s: %v, want %v", h.Endpoint(row.family, row.port), err, row.want)
		}
		if c != nil {
			c.Close()
		}
	}
}

// errTimeout stands for any of package net's errors that say so.
var errTimeout = errors.New("timeout")

func TestBlackHole(t *testing.T) {
	t.Parallel()
	lab := New(t)
	h := lab.Host(t, "hole.example", "10.200.0.1")
	h.TCP(7, Echo)
	h.Drop()
	watch := lab.Watch(t)
	d := net.Dialer{Timeout: 100 * time.Millisecond}
	if c, err := d.DialContext(t.Context(), "tcp", h.Endpoint(4, 7)); err == nil {
		c.Close()
		t.Error("the black hole answered")
	}
	if n := watch.Count(t, h.To()); n == 0 {
		t.Error("the watch didn't see what went into the black hole")
	}
}

func TestAddressesOfEveryClass(t *testing.T) {
	t.Parallel()
	lab := New(t)
	for i, addr := range []string{
		"8.8.4.4", "10.1.2.3", "172.31.0.7", "192.168.7.7", "100.64.1.1", "100.100.100.200", "169.254.169.254", "169.254.9.9",
		"198.18.0.1", "192.0.2.7", "2001:4860:4860::8844", "fd00:1::3", "fd00:ec2::254", "2001:db8::7", "64:ff9b::a01:203",
	} {
		h := lab.Host(t, fmt.Sprintf("class%d.example", i), addr)
		h.TCP(7, Echo)
		dial(t, net.JoinHostPort(addr, "7")).Close()
	}
}

func TestHostDialsHere(t *testing.T) {
	t.Parallel()
	h := New(t).Host(t, "client.example")
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for _, row := range []struct{ here, host string }{{Here4.String(), h.IP4.String()}, {Here6.String(), h.IP6.String()}} {
		c, err := h.Dial(t.Context(), "tcp", net.JoinHostPort(row.here, port))
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		accepted, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if from, _, _ := net.SplitHostPort(accepted.RemoteAddr().String()); strings.TrimPrefix(from, "::ffff:") != row.host {
			t.Errorf("dialled by %s, want %s", from, row.host)
		}
		accepted.Close()
	}
	_, err = h.Dial(t.Context(), "tcp", net.JoinHostPort(Here4.String(), "1"))
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial a closed port: %v, want %v", err, syscall.ECONNREFUSED)
	}
}

func TestTools(t *testing.T) {
	t.Parallel()
	lab := New(t)
	h := lab.Host(t, "tools.example")
	h.IPerf3(5201)
	h.Git(80, map[string]string{"README": "hello\n", "dir/file": "deep\n"})
	for _, command := range []string{
		"iperf3 -4 --bytes 1M --client tools.example",
		"iperf3 -6 --reverse --bytes 1M --client tools.example",
		"ping -4 -c 1 -W 5 tools.example",
		"ping -6 -c 1 -W 5 tools.example",
		"git clone --quiet http://tools.example/repo.git " + filepath.Join(t.TempDir(), "clone"),
	} {
		if out, err := run(t, command); err != nil {
			t.Errorf("%s: %v\n%s", command, err, out)
		}
	}
}

func TestTraceroute(t *testing.T) {
	t.Parallel()
	h := New(t).DistantHost(t, 3, "far.example")
	for family, first := range map[string]string{"-4": Router4.String(), "-6": Router6.String()} {
		out, err := run(t, "traceroute -n -q 1 -w 5 "+family+" far.example")
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		lines := strings.Split(out, "\n")[1:]
		last := h.IP4.String()
		if family == "-6" {
			last = h.IP6.String()
		}
		if len(lines) != 5 || !strings.Contains(lines[0], first) || !strings.Contains(lines[4], last) {
			t.Errorf("traceroute %s, want %s, three hops, %s:\n%s", family, first, last, out)
		}
	}
}

// dial connects from here, at once or not at all.
func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	c, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}
