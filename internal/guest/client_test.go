package guest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// A hostile is a guest of the test's own: it speaks SSH, and says what it wants.
type hostile struct {
	ssh.Conn
	channels <-chan ssh.NewChannel
}

// hostileGuest returns a client, and what it takes for its guest.
func hostileGuest(t *testing.T) (*Client, <-chan *hostile) {
	t.Helper()
	ours, theirs := net.Pipe()
	c := NewClient(ours)
	ready := make(chan *hostile, 1)
	go func() {
		_, key, _ := ed25519.GenerateKey(rand.Reader)
		signer, err := ssh.NewSignerFromKey(key)
		if err != nil {
			t.Error(err)
			return
		}
		cfg := &ssh.ServerConfig{NoClientAuth: true, ServerVersion: protocol}
		cfg.AddHostKey(signer)
		conn, channels, requests, err := ssh.NewServerConn(newTransport(theirs), cfg)
		if err != nil {
			return // the client is gone
		}
		go ssh.DiscardRequests(requests)
		ready <- &hostile{conn, channels}
	}()
	t.Cleanup(func() { c.Close(); theirs.Close() })
	return c, ready
}

// next takes the host's next channel.
func (h *hostile) next(t *testing.T) (ssh.Channel, <-chan *ssh.Request) {
	t.Helper()
	ch, requests, err := (<-h.channels).Accept()
	if err != nil {
		t.Error(err)
	}
	return ch, requests
}

// TestHostileGuest checks that a guest that does what it must not loses its
// connection, with an error that says why, and nothing waits for it.
func TestHostileGuest(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		do   func(*hostile, ssh.Channel)
		want string
	}{
		{"opens a channel", func(h *hostile, _ ssh.Channel) { go h.OpenChannel("x\x1b", nil) }, `opens a channel "x\x1b"`},
		{"has a request", func(h *hostile, _ ssh.Channel) { _, _, _ = h.SendRequest("x", false, nil) }, `requests x`},
		{"unknown request", func(_ *hostile, ch ssh.Channel) { _, _ = ch.SendRequest("x", false, nil) }, "request x"},
		{"exit before the end", func(_ *hostile, ch ssh.Channel) { _, _ = ch.SendRequest(requestExit, false, encodeExit(Exit{})) }, "not now"},
		{"started twice", func(_ *hostile, ch ssh.Channel) { _, _ = ch.SendRequest(requestStarted, false, encodeNumbers(1)) }, "not now"},
		{"ended twice", func(_ *hostile, ch ssh.Channel) {
			_, _ = ch.SendRequest(requestEnded, false, nil)
			_, _ = ch.SendRequest(requestEnded, false, nil)
		}, "second time"},
		{"impossible exit", func(_ *hostile, ch ssh.Channel) {
			_, _ = ch.SendRequest(requestEnded, false, nil)
			_, _ = ch.SendRequest(requestExit, false, encodeNumbers(300, 0))
		}, "exit with code 300"},
		{"more than its credit", func(_ *hostile, ch ssh.Channel) {
			_, _ = ch.Write(make([]byte, streamWindow+1))
		}, "more data than there is credit for"},
		{"more than its credit, of the other stream", func(_ *hostile, ch ssh.Channel) {
			_, _ = ch.Stderr().Write(make([]byte, streamWindow+1))
		}, "more data than there is credit for"},
		{"goes away", func(h *hostile, _ ssh.Channel) { h.Close() }, "the agent ended"},
		{"closes the channel", func(_ *hostile, ch ssh.Channel) { ch.Close() }, "the guest cut it off"},
		{"ends the data, and says not so", func(_ *hostile, ch ssh.Channel) { _ = ch.CloseWrite(); ch.Close() }, "the guest cut it off"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c, guests := hostileGuest(t)
			go func() {
				h := <-guests
				ch, requests := h.next(t)
				go ssh.DiscardRequests(requests)
				_, _ = ch.SendRequest(requestStarted, false, encodeNumbers(7))
				row.do(h, ch)
			}()
			p, err := c.Start(t.Context(), Command{Args: []string{"x"}})
			if err == nil {
				defer p.Close()
				_, err = p.Wait(t.Context())
			}
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("the command ended with %v; want an error with %q", err, row.want)
			}
			if p != nil {
				if _, err := io.ReadAll(p.Stdout()); err == nil && !closed(p.channel.ended) {
					t.Error("the output has a good end")
				}
			}
		})
	}
}

// TestNoise checks that bytes which are not the agent's end the client, wherever
// they come.
func TestNoise(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ name, noise string }{
		{"nothing", ""},
		{"lines", strings.Repeat("noise\n", 10000)},
		{"no line", strings.Repeat("x", 1<<20)},
		{"another protocol", "SSH-2.0-OpenSSH_9\r\n"},
		{"an old one", "SSH-1.5-x\r\n"},
		{"garbage behind the greeting", protocol + "\r\n" + strings.Repeat("\xff", 1<<20)},
		{"zeros behind the greeting", protocol + "\r\n" + strings.Repeat("\x00", 1<<20)},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			ours, theirs := net.Pipe()
			c := NewClient(ours)
			defer c.Close()
			go func() {
				go io.Copy(io.Discard, theirs)
				_, _ = io.WriteString(theirs, row.noise)
				theirs.Close()
			}()
			if err := c.Boot(t.Context(), Bootstrap{}); err == nil {
				t.Error("booted")
			}
			<-c.Ended()
			if _, err := c.Start(t.Context(), Command{Args: []string{"x"}}); err == nil {
				t.Error("a command started")
			}
		})
	}
}

// TestMemoryOfSmallPieces checks that a guest whose bytes come one by one costs
// the host no more than its credit.
func TestMemoryOfSmallPieces(t *testing.T) {
	c, guests := hostileGuest(t)
	sent := make(chan struct{})
	go func() {
		ch, requests := (<-guests).next(t)
		go ssh.DiscardRequests(requests)
		_, _ = ch.SendRequest(requestStarted, false, encodeNumbers(7))
		for range 200_000 {
			_, _ = ch.Write([]byte{1})
		}
		_, _ = ch.SendRequest(requestEnded, false, nil)
		_ = ch.CloseWrite()
		close(sent)
	}()
	p, err := c.Start(t.Context(), Command{Args: []string{"x"}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	<-sent
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	n, err := io.Copy(io.Discard, p.Stdout())
	if n != 200_000 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	// In SSH's own buffers they would be 10 MB; what else is freed is other tests'.
	if held := int64(before.HeapAlloc) - int64(after.HeapAlloc); held > 5*streamWindow {
		t.Errorf("200 000 bytes were held in %d", held)
	}
}

// TestContexts checks that every call gives up with its context, whatever the
// guest does, and leaves the client as it is.
func TestContexts(t *testing.T) {
	t.Parallel()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	c, guests := hostileGuest(t)
	go func() { <-guests }() // and it answers nothing more
	// However slow the machine is: a context that ends before would end the client.
	if _, err := c.connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Start(ended, Command{Args: []string{"x"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("Start: %v", err)
	}
	for name, call := range map[string]func(context.Context) error{
		"Start":     func(ctx context.Context) error { _, err := c.Start(ctx, Command{Args: []string{"x"}}); return err },
		"SFTP":      func(ctx context.Context) error { _, err := c.SFTP(ctx); return err },
		"Dial":      func(ctx context.Context) error { _, err := c.Dial(ctx, "tcp", "127.0.0.1:1"); return err },
		"Boot":      func(ctx context.Context) error { return c.Boot(ctx, Bootstrap{}) },
		"Configure": func(ctx context.Context) error { return c.Configure(ctx, Network{}) },
		"SetClock":  func(ctx context.Context) error { return c.SetClock(ctx, time.Now()) },
		"Shutdown":  c.Shutdown,
	} {
		if err := call(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v; want the context's error", name, err)
		}
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := c.Boot(t.Context(), Bootstrap{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Boot after Close: %v", err)
	}
	// Nobody greets: the handshake gives up too, and is the client's end.
	ours, theirs := net.Pipe()
	defer theirs.Close()
	c = NewClient(ours)
	short, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Boot(short, Bootstrap{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Boot of a guest that is silent: %v", err)
	}
	<-c.Ended()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// TestCloseOfUnused checks that a client that never spoke closes.
func TestCloseOfUnused(t *testing.T) {
	t.Parallel()
	ours, theirs := net.Pipe()
	defer theirs.Close()
	c := NewClient(ours)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() { c.Close() })
	}
	all.Wait()
	<-c.Ended()
}

// TestQueue checks a queue against what went in, with deadlines, ends and breaks.
func TestQueue(t *testing.T) {
	t.Parallel()
	total := 0
	q := newQueue(10, func(n int) { total += n })
	go func() {
		for i := range 100 {
			fmt.Fprintf(q, "%02d", i)
		}
		q.finish(io.EOF)
	}()
	text, err := io.ReadAll(q)
	if err != nil || len(text) != 200 || total != 200 || !bytes.HasPrefix(text, []byte("000102")) {
		t.Errorf("%q, %v, %d", text, err, total)
	}
	if _, err := q.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a write behind the end: %v", err)
	}

	q = newQueue(10, nil)
	if !q.offer(make([]byte, 10)) || q.offer([]byte{1}) {
		t.Error("an offer fits by the limit")
	}
	q.setWriteDeadline(time.Now().Add(20 * time.Millisecond))
	if n, err := q.Write([]byte("x")); n != 0 || !isTimeout(err) {
		t.Errorf("a write to a full queue: %d, %v", n, err)
	}
	q.setWriteDeadline(time.Time{})
	if _, err := io.ReadFull(q, make([]byte, 10)); err != nil {
		t.Error(err)
	}
	q.setReadDeadline(time.Now().Add(-time.Second))
	if _, err := q.Read(make([]byte, 1)); !isTimeout(err) {
		t.Errorf("a read past its deadline: %v", err)
	}
	q.setReadDeadline(time.Time{})
	if n, err := q.Read(nil); n != 0 || err != nil {
		t.Errorf("a read of nothing: %d, %v", n, err)
	}
	broken := errors.New("broken")
	time.AfterFunc(10*time.Millisecond, func() { q.breakOff(broken) })
	if _, err := q.Read(make([]byte, 1)); err != broken {
		t.Errorf("a read of a broken queue: %v", err)
	}
	if _, err := q.Write([]byte{1}); err != broken || !q.offer(make([]byte, 100)) {
		t.Errorf("a write to a broken queue: %v", err)
	}
	q.room(1)
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// TestFastestCipher names a cipher that both ends offer.
func TestFastestCipher(t *testing.T) {
	t.Parallel()
	if got := fastestCipher(); got != ssh.CipherAES128GCM && got != ssh.CipherChaCha20Poly1305 {
		t.Errorf("the fastest cipher is %q", got)
	}
}
