package integration

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/netlab"
)

// payloadSize is how many bytes a checksummed stream carries: with SLUICE_LARGE=1
// more than any counter of 32 bits holds in one direction.
func payloadSize() int64 {
	if large() {
		return 5 << 30
	}
	return 64 << 20
}

// payloadCommand is the command line that prints the payload: no two of its blocks are
// alike, so whatever is lost, repeated or out of order changes the checksum.
func payloadCommand(size int64) string { return fmt.Sprintf("seq 4000000000 | head -c %d", size) }

// A payload is what payloadCommand prints, as a reader.
type payload struct {
	left int64
	line []byte // the rest of the current line
	next int64
}

func newPayload(size int64) io.Reader { return &payload{left: size, next: 1} }

func (p *payload) Read(b []byte) (int, error) {
	n := 0
	for n < len(b) && p.left > 0 {
		if len(p.line) == 0 {
			p.line = append(strconv.AppendInt(p.line[:0], p.next, 10), '\n')
			p.next++
		}
		k := copy(b[n:min(len(b), n+int(min(p.left, 64)))], p.line)
		p.line, p.left, n = p.line[k:], p.left-int64(k), n+k
	}
	if n == 0 && len(b) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// digest reads to the end and returns the checksum, as sha256sum prints it.
func digest(r io.Reader) (string, error) {
	sum := sha256.New()
	_, err := io.Copy(sum, bufio.NewReaderSize(r, 256<<10))
	return fmt.Sprintf("%x", sum.Sum(nil)), err
}

// payloadDigest returns the payload's checksum.
func payloadDigest(t *testing.T, size int64) string {
	t.Helper()
	sum, err := digest(newPayload(size))
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// write sends the payload and closes that half.
func write(c net.Conn, size int64) error {
	if _, err := io.Copy(c, newPayload(size)); err != nil {
		return err
	}
	return c.(*net.TCPConn).CloseWrite()
}

// TestToolsHalfClose sends the payload one way, ends that half, and then sends it the
// other way: first the guest ends its half, then the server does.
func TestToolsHalfClose(t *testing.T) {
	t.Parallel()
	size := payloadSize()
	want := payloadDigest(t, size)
	lab := netlab.New(t)
	netlab.Tool(t, "nc")
	h := lab.Host(t, "half.example")
	ends := make(chan error, 1)
	serve := func(first, second func(net.Conn) error) func(net.Conn) {
		return func(c net.Conn) { ends <- errors.Join(first(c), second(c)) }
	}
	hear := func(c net.Conn) error {
		got, err := digest(c)
		if err == nil && got != want {
			err = fmt.Errorf("heard %s, want %s", got, want)
		}
		return err
	}
	say := func(c net.Conn) error { return write(c, size) }
	h.TCP(1, serve(hear, say))
	h.TCP(2, serve(say, hear))
	g := startGuest(t)
	// nc leaves when its kernel has the last bytes, and a sandbox that ends cuts what is
	// still on the way: the server says when it has them.
	ended := func(how string) {
		t.Helper()
		select {
		case err := <-ends:
			if err != nil {
				t.Errorf("%s: the server: %v", how, err)
			}
		case <-time.After(patience):
			t.Fatalf("%s: the server waits", how)
		}
	}
	for _, f := range families {
		addr := address(h, f)
		// The server speaks only after the guest's end: nc reads on behind its own.
		how := fmt.Sprintf("IPv%d, the guest ended first", f)
		out := g.long(fmt.Sprintf("%s | nc -N %s 1 | sha256sum", payloadCommand(size), addr))
		if !strings.Contains(out, want) {
			t.Errorf("%s: heard %s, want %s", how, out, want)
		}
		ended(how)
		// The guest speaks only after all that the server said.
		how = fmt.Sprintf("IPv%d, the server ended first", f)
		out = g.long(fmt.Sprintf("rm -f /tmp/go; mkfifo /tmp/go; { cat /tmp/go; %s; } | nc -N %s 2 | { head -c %d | sha256sum >&2; echo -n >/tmp/go; }",
			payloadCommand(size), addr, size))
		if !strings.Contains(out, want) {
			t.Errorf("%s: heard %s, want %s", how, out, want)
		}
		ended(how)
	}
}

// slowly passes a stream on in small pieces with pauses, then the rest at once.
func slowly(c net.Conn, copyBlock func(n int64) (int64, error)) error {
	for range 20 {
		if _, err := copyBlock(50_000); err != nil {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
	_, err := copyBlock(1 << 62)
	if err == io.EOF {
		err = nil
	}
	return errors.Join(err, c.(*net.TCPConn).CloseWrite())
}

// slow is slowly for a pipe of commands.
const slow = "{ for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do head -c 50000; sleep 0.05; done; cat; }"

// TestToolsSlow reads and writes slowly at either end: nothing is lost, and who writes
// waits.
func TestToolsSlow(t *testing.T) {
	t.Parallel()
	size := payloadSize() / 4
	want := payloadDigest(t, size)
	lab := netlab.New(t)
	netlab.Tool(t, "nc")
	h := lab.Host(t, "slow.example")
	heard := make(chan string, 1)
	var sent atomic.Int64
	h.TCP(1, func(c net.Conn) { write(c, size) })
	h.TCP(2, func(c net.Conn) {
		p := newPayload(size)
		if err := slowly(c, func(n int64) (int64, error) { return io.CopyN(c, p, n) }); err != nil {
			t.Errorf("slow writer: %v", err)
		}
	})
	h.TCP(3, func(c net.Conn) {
		got, err := digest(c)
		heard <- fmt.Sprint(got, " ", err)
	})
	h.TCP(4, func(c net.Conn) {
		sum := sha256.New()
		err := slowly(c, func(n int64) (int64, error) { return io.CopyN(sum, c, n) })
		heard <- fmt.Sprintf("%x %v", sum.Sum(nil), err)
	})
	h.TCP(5, func(c net.Conn) {
		io.Copy(io.MultiWriter(c, counter{&sent}), newPayload(size))
	})
	g := startGuest(t)
	for _, f := range families {
		addr := address(h, f)
		for _, row := range []struct{ name, line string }{
			{"slow reader", fmt.Sprintf("nc -d %s 1 | %s | sha256sum", addr, slow)},
			{"slow server", fmt.Sprintf("nc -d %s 2 | sha256sum", addr)},
		} {
			if out := g.long(row.line); !strings.Contains(out, want) {
				t.Errorf("IPv%d, %s: heard %s, want %s", f, row.name, out, want)
			}
		}
		for _, row := range []struct{ name, line string }{
			{"slow writer", fmt.Sprintf("%s | %s | nc -N %s 3", payloadCommand(size), slow, addr)},
			{"slow reading server", fmt.Sprintf("%s | nc -N %s 4", payloadCommand(size), addr)},
		} {
			g.long(row.line)
			if got := <-heard; got != want+" <nil>" {
				t.Errorf("IPv%d, %s: the server heard %s, want %s", f, row.name, got, want)
			}
		}
	}
	// A reader that stands still makes the server wait: what is on the way is the
	// sockets' and our buffers, a few MiB each.
	stalled := make(chan int64)
	go func() {
		eventually(t, "the server has begun", func() bool { return sent.Load() > 0 })
		time.Sleep(2 * time.Second)
		stalled <- sent.Load()
	}()
	out := g.long(fmt.Sprintf("nc -d %s 5 | { sleep 4; sha256sum; }", address(h, 4)))
	if !strings.Contains(out, want) {
		t.Errorf("stalled reader: heard %s, want %s", out, want)
	}
	if got := <-stalled; got > 32<<20 {
		t.Errorf("the server wrote %d MiB to a reader that stood still", got>>20)
	}
}

// A counter counts the bytes written to it.
type counter struct{ n *atomic.Int64 }

func (c counter) Write(b []byte) (int, error) {
	c.n.Add(int64(len(b)))
	return len(b), nil
}

// TestToolsReset resets flows in the middle, from either side: a reset is never a
// clean end.
func TestToolsReset(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	netlab.Tool(t, "curl")
	netlab.Tool(t, "nc")
	h := lab.Host(t, "reset.example")
	h.TCP(80, func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			t.Errorf("server: %v", err)
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"+strings.Repeat("x", 1000))
		time.Sleep(200 * time.Millisecond) // the guest has these bytes before the reset
		c.(*net.TCPConn).SetLinger(0)
	})
	h.TCP(81, func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			t.Errorf("server: %v", err)
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"+strings.Repeat("x", 1000))
	})
	ends := make(chan error, 1)
	h.TCP(82, func(c net.Conn) {
		// As much as sockets hold, so that nothing is being written when the reset comes.
		_, err := io.Copy(c, newPayload(512<<10))
		if err == nil {
			_, err = c.Read(make([]byte, 1))
		}
		ends <- err
	})
	g := startGuest(t)
	for _, f := range families {
		for range 3 {
			out, code := g.run(fmt.Sprintf("curl -sS -%d -o /dev/null http://%s/", f, h.Name))
			if code != 56 || !strings.Contains(out, "reset by peer") {
				t.Errorf("IPv%d, the server resets: curl exits with %d, want 56\n%s", f, code, out)
			}
		}
		g.fails(fmt.Sprintf("curl -sS -%d -o /dev/null http://%s:81/", f, h.Name), 18) // ended early, cleanly
		// A process that dies with bytes unread resets its flow.
		g.run(fmt.Sprintf("timeout -s KILL 0.3 nc -d %s 82 | sleep 1", address(h, f)))
		select {
		case err := <-ends:
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("IPv%d, the guest resets: the server gets %v, want %v", f, err, syscall.ECONNRESET)
			}
		case <-time.After(patience):
			t.Errorf("IPv%d, the guest resets: the server isn't told", f)
		}
	}
}
