package dns

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	mdns "github.com/miekg/dns"
)

// pipe serves one end of an in-memory connection and returns the other. done is
// closed when ServeConn has returned.
func pipe(s *Server) (guest net.Conn, done <-chan struct{}) {
	guest, c := net.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.ServeConn(c)
	}()
	return guest, ended
}

// TestPipelining sends many queries at once and reads the answers as they come.
func TestPipelining(t *testing.T) {
	t.Parallel()
	up := newAuthority(t, func(w mdns.ResponseWriter, q *mdns.Msg) {
		if strings.Contains(strings.ToLower(q.Question[0].Name), "slow") {
			time.Sleep(200 * time.Millisecond)
		}
		w.WriteMsg(good(q))
	})
	s := newServer(t, Config{Nameservers: []Nameserver{up.nameserver()}, Limits: Limits{Pipelined: 4}})
	c := dialTCP(t, s)
	var queries []*mdns.Msg
	for i := range 50 {
		q := question(fmt.Sprintf("n%d.example A", i))
		if i == 0 {
			q = question("slow.example A")
		}
		q.Id = uint16(i)
		queries = append(queries, q)
	}
	writeTCP(t, c, queries...)
	seen := map[uint16]bool{}
	var order []uint16
	for range queries {
		m := readTCP(t, c)
		if show(m) != "NOERROR 93.184.1.1" || m.Question[0].Name != queries[m.Id].Question[0].Name || seen[m.Id] {
			t.Errorf("got %v", m)
		}
		seen[m.Id] = true
		order = append(order, m.Id)
	}
	if order[0] == 0 {
		t.Error("the slow answer held up the others")
	}
}

// TestHalfClose closes the guest's side behind its queries: the answers still
// come, then the end.
func TestHalfClose(t *testing.T) {
	t.Parallel()
	up := newAuthority(t, func(w mdns.ResponseWriter, q *mdns.Msg) {
		time.Sleep(50 * time.Millisecond)
		w.WriteMsg(good(q))
	})
	s := newServer(t, Config{Nameservers: []Nameserver{up.nameserver()}})
	c := dialTCP(t, s)
	writeTCP(t, c, question("a.example A"), question("b.example A"), question("c.example A"))
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if m := readTCP(t, c); show(m) != "NOERROR 93.184.1.1" {
			t.Errorf("got %v", m)
		}
	}
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("behind the answers: got %v, want EOF", err)
	}
}

// TestStreamEnds shows what ends a connection.
func TestStreamEnds(t *testing.T) {
	t.Parallel()
	whole := func(t *testing.T) string {
		wire, err := question("host.docker.internal A").Pack()
		if err != nil {
			t.Fatal(err)
		}
		return string([]byte{0, byte(len(wire))}) + string(wire)
	}
	for _, tt := range []struct {
		name string
		send func(t *testing.T, c net.Conn)
		want time.Duration // until the end
	}{
		{"nothing sent", func(*testing.T, net.Conn) {}, streamIdle},
		{"half a length", func(_ *testing.T, c net.Conn) { c.Write([]byte{0}) }, streamIdle},
		{"half a message", func(t *testing.T, c net.Conn) { c.Write([]byte(whole(t))[:20]) }, streamIdle},
		{"length 0", func(_ *testing.T, c net.Conn) { c.Write([]byte{0, 0}) }, 0},
		{"longer than we read", func(_ *testing.T, c net.Conn) { c.Write([]byte{0xff, 0xff}) }, 0},
		{"a response", func(_ *testing.T, c net.Conn) {
			c.Write([]byte("\x00\x0c\x12\x34\x81\x80\x00\x00\x00\x00\x00\x00\x00\x00"))
		}, 0},
		{"closed at once", func(_ *testing.T, c net.Conn) { c.Close() }, 0},
		{"a byte now and then", func(t *testing.T, c net.Conn) {
			for _, b := range []byte(whole(t)) {
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(1100 * time.Millisecond)
			}
		}, streamIdle},
		{"a query, then nothing", func(t *testing.T, c net.Conn) {
			time.Sleep(10 * time.Second)
			c.Write([]byte(whole(t)))
			readTCP(t, c)
		}, 10*time.Second + streamIdle},
		{"answers never read", func(t *testing.T, c net.Conn) { c.Write([]byte(whole(t))) }, streamWrite},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newServer(t, Config{})
			c, done := pipe(s)
			began := time.Now()
			var wg sync.WaitGroup
			wg.Go(func() { tt.send(t, c) })
			<-done
			if got := time.Since(began); got != tt.want {
				t.Errorf("%s: ended after %v, want %v", tt.name, got, tt.want)
			}
			wg.Wait()
			c.Close()
		})
	}
}

// TestSlowGuestHarmsItself lets a guest ask over TCP and never read: a query
// over UDP that waits for the same answer gets it at once.
func TestSlowGuestHarmsItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, _ := scripted(t, Config{}, "ok 100ms")
		c, done := pipe(s)
		for range 5 {
			writeTCP(t, c, question("www.example.com A"))
		}
		if got, want := timed(t, s, "www.example.com A"), "NOERROR 93.184.1.1 after 100ms"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		<-done
		c.Close()
	})
}

// TestCloseEndsStreams closes a Server with connections in every state.
func TestCloseEndsStreams(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, _ := scripted(t, Config{}, "silent")
		var conns []net.Conn
		var wg sync.WaitGroup
		for i := range 6 {
			c, done := pipe(s)
			conns = append(conns, c)
			wg.Go(func() { <-done })
			switch i {
			case 1:
				c.Write([]byte{0})
			case 2, 3:
				writeTCP(t, c, question("www.example.com A"))
			case 4:
				writeTCP(t, c, question("host.docker.internal A")) // the answer isn't read
			case 5:
				c.Close()
			}
		}
		time.Sleep(time.Second)
		began := time.Now()
		s.Close()
		wg.Wait()
		if took := time.Since(began); took != 0 {
			t.Errorf("took %v", took)
		}
		c, done := pipe(s)
		<-done
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("after Close: got %v, want EOF", err)
		}
		for _, c := range conns {
			c.Close()
		}
	})
}

// FuzzStream lets a guest send any bytes over TCP.
func FuzzStream(f *testing.F) {
	wire, err := question("host.docker.internal A").Pack()
	if err != nil {
		f.Fatal(err)
	}
	one := append([]byte{0, byte(len(wire))}, wire...)
	f.Add(one)
	f.Add(append(one, one...))
	f.Add([]byte{0, 0})
	s := newServer(f, Config{Nameservers: []Nameserver{{Host: "nobody.invalid", Port: 53}}})
	f.Fuzz(func(t *testing.T, data []byte) {
		c, done := pipe(s)
		go func() {
			c.Write(data)
			c.Close()
		}()
		io.Copy(io.Discard, c)
		<-done
	})
}
