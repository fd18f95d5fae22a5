package guest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// hostile returns a client whose guest answers the first request with replies,
// byte for byte, and then closes the stream.
func hostile(t testing.TB, replies []byte) *Client {
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		if _, err := readMessage(theirs, maxRequest); err != nil {
			return
		}
		_, _ = theirs.Write(replies)
	}()
	c := NewClient(ours)
	t.Cleanup(func() { c.Close() })
	return c
}

// framed returns messages in the stream's form.
func framed(texts ...string) []byte {
	var b []byte
	for _, text := range texts {
		b = binary.BigEndian.AppendUint32(b, uint32(len(text)))
		b = append(b, text...)
	}
	return b
}

func TestClientDistrustsTheGuest(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		replies []byte
	}{
		{"nothing", nil},
		{"half a length", []byte{0, 0}},
		{"half a message", framed(`{"v":1,"id":1,"kind":"done"}`)[:12]},
		{"length 0", []byte{0, 0, 0, 0}},
		{"length 4 GiB", []byte{0xff, 0xff, 0xff, 0xff}},
		{"length one over the limit", []byte{0, 1, 0, 1}},
		{"not JSON", framed(`hello`)},
		{"JSON of another shape", framed(`[1,2,3]`)},
		{"deep JSON", framed(strings.Repeat(`[`, 60000))},
		{"no version", framed(`{"id":1,"kind":"done"}`)},
		{"a later version", framed(`{"v":2,"id":1,"kind":"done"}`)},
		{"no kind", framed(`{"v":1,"id":1}`)},
		{"unknown kind", framed(`{"v":1,"id":1,"kind":"own"}`)},
		{"a request", framed(`{"v":1,"id":1,"kind":"signal","signal":9}`)},
		{"a request without its part", framed(`{"v":1,"id":1,"kind":"boot"}`)},
		{"reply to nobody", framed(`{"v":1,"id":7,"kind":"done"}`)},
		{"negative id", framed(`{"v":1,"id":-1,"kind":"done"}`)},
		{"done for run", framed(`{"v":1,"id":1,"kind":"done"}`)},
		{"exit without exit", framed(`{"v":1,"id":1,"kind":"exit"}`)},
		{"exit and failure", framed(`{"v":1,"id":1,"kind":"exit","exit":{"code":0},"start":{"code":127}}`)},
		{"exit code 256", framed(`{"v":1,"id":1,"kind":"exit","exit":{"code":256}}`)},
		{"exit code -1", framed(`{"v":1,"id":1,"kind":"exit","exit":{"code":-1}}`)},
		{"exit signal 65", framed(`{"v":1,"id":1,"kind":"exit","exit":{"code":-1,"signal":65}}`)},
		{"exit signal and code", framed(`{"v":1,"id":1,"kind":"exit","exit":{"code":0,"signal":9}}`)},
		{"failure with code 0", framed(`{"v":1,"id":1,"kind":"exit","start":{"code":0}}`)},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c := hostile(t, row.replies)
			_, err := c.Run(t.Context(), Command{Args: []string{"a"}})
			var start *StartError
			if err == nil || errors.As(err, &start) {
				t.Fatalf("Run = %v; want a failed stream", err)
			}
			if again := c.Boot(t.Context(), Bootstrap{}); again == nil || !errors.Is(again, errors.Unwrap(err)) && !strings.Contains(again.Error(), err.Error()) {
				t.Errorf("the next call has %v; want the reason that ended the stream, %v", again, err)
			}
		})
	}
}

func TestClientTakesASecondReplyAsAnAttack(t *testing.T) {
	t.Parallel()
	reply := `{"v":1,"id":1,"kind":"done"}`
	c := hostile(t, framed(reply, reply))
	if err := c.Boot(t.Context(), Bootstrap{}); err != nil {
		t.Fatal(err)
	}
	if err := c.Configure(t.Context(), Network{}); err == nil {
		t.Error("the stream goes on after a reply to nobody")
	}
}

func TestClientQuotesTheGuest(t *testing.T) {
	t.Parallel()
	c := hostile(t, framed(`{"v":1,"id":1,"kind":"exit","start":{"code":127,"message":"\u001b]0;owned\u0007"}}`))
	_, err := c.Run(t.Context(), Command{Args: []string{"a"}})
	if err == nil || strings.ContainsAny(err.Error(), "\x1b\a") {
		t.Errorf("Run = %q; want no control characters", err)
	}
}

func TestClientHonoursContextWhileTheGuestIsSilent(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name  string
		reads bool // the guest takes the request, and doesn't answer
	}{{"reads", true}, {"doesn't read", false}} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			ours, theirs := net.Pipe()
			defer theirs.Close()
			if row.reads {
				go func() { _, _ = io.Copy(io.Discard, theirs) }()
			}
			c := NewClient(ours)
			defer c.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			if err := c.Boot(ctx, Bootstrap{}); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Boot = %v; want the deadline", err)
			}
		})
	}
}

func TestClientClose(t *testing.T) {
	t.Parallel()
	ours, theirs := net.Pipe()
	defer theirs.Close()
	go func() { _, _ = io.Copy(io.Discard, theirs) }()
	c := NewClient(ours)
	waiting := make(chan error, 1)
	go func() { waiting <- c.Boot(t.Context(), Bootstrap{}) }()
	for range 2 {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := <-waiting; !errors.Is(err, net.ErrClosed) {
		t.Errorf("a call that waited has %v; want net.ErrClosed", err)
	}
	if _, err := c.Run(t.Context(), Command{Args: []string{"a"}}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a later call has %v; want net.ErrClosed", err)
	}
	if err := c.Signal(9); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a later Signal has %v; want net.ErrClosed", err)
	}
}

func TestClientBoundsItsRequests(t *testing.T) {
	t.Parallel()
	c := hostile(t, nil)
	_, err := c.Run(t.Context(), Command{Args: []string{strings.Repeat("a", maxRequest)}})
	if err == nil || !strings.Contains(err.Error(), "limit") {
		t.Errorf("Run = %.80v; want the limit named", err)
	}
	for _, n := range []int{-1, 0, 65} {
		if err := c.Signal(n); err == nil {
			t.Errorf("Signal(%d) is taken", n)
		}
	}
}

// FuzzClient is a guest that answers with any bytes: every call returns, and a
// Run that succeeds has an outcome that a command can have.
func FuzzClient(f *testing.F) {
	f.Add(framed(`{"v":1,"id":1,"kind":"exit","exit":{"code":3}}`))
	f.Add(framed(`{"v":1,"id":1,"kind":"exit","exit":{"code":-1,"signal":9}}`, `{"v":1,"id":2,"kind":"done"}`))
	f.Add(framed(`{"v":1,"id":1,"kind":"exit","start":{"code":126,"message":"no"}}`))
	f.Add([]byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, replies []byte) {
		c := hostile(t, replies)
		exit, err := c.Run(t.Context(), Command{Args: []string{"a"}})
		if err == nil && (!(&exit).valid() || exit.Status() < 0 || exit.Status() > 255) {
			t.Errorf("Run = %+v", exit)
		}
		if err != nil && strings.ContainsAny(err.Error(), "\x1b\r") {
			t.Errorf("the error has control characters: %q", err)
		}
		_ = c.Boot(t.Context(), Bootstrap{}) // whatever it says, it returns
	})
}

// FuzzMessage holds the parser to its printer: what is accepted prints to
// something that is accepted as the same.
func FuzzMessage(f *testing.F) {
	f.Add(framed(`{"v":1,"id":1,"kind":"boot","boot":{"hostname":"a","network":{"addrs":["10.0.0.1/8"],"gateway_mac":"02:00:00:00:00:01"}}}`))
	f.Add(framed(`{"v":1,"id":2,"kind":"run","command":{"args":["a"],"env":["B=c"],"dir":"/"}}`))
	f.Add(framed(`{"v":1,"id":3,"kind":"signal","signal":15}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := readMessage(bytes.NewReader(data), maxReply)
		if err != nil {
			return
		}
		var first, second bytes.Buffer
		if err := writeMessage(&first, m, maxRequest); err != nil {
			t.Fatalf("write what was read: %v", err)
		}
		again, err := readMessage(bytes.NewReader(first.Bytes()), maxRequest)
		if err != nil {
			t.Fatalf("read what was written: %v\n%q", err, first.Bytes())
		}
		if err := writeMessage(&second, again, maxRequest); err != nil || !bytes.Equal(first.Bytes(), second.Bytes()) {
			t.Errorf("%q\nbecame\n%q, %v", first.Bytes(), second.Bytes(), err)
		}
	})
}

// TestClientHearsTheLastWord closes the client of a guest that has told how its
// command ended and is gone, which is what a sandbox does.
func TestClientHearsTheLastWord(t *testing.T) {
	t.Parallel()
	for range 100 {
		c := hostile(t, framed(`{"v":1,"id":1,"kind":"exit","exit":{"code":42}}`))
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			<-c.Ended()
			c.Close()
		}()
		if exit, err := c.Run(t.Context(), Command{Args: []string{"a"}}); err != nil || exit.Code != 42 {
			t.Fatalf("Run = %+v, %v; want code 42", exit, err)
		}
		<-closed
	}
}
