package guest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A floodSystem is a System whose connections echo what they read.
type floodSystem struct{ *pipeSystem }

// TestBothDirectionsFull has many connections write and read all they can, both
// ways at once, and end at any moment: no end may wait for the other for good.
func TestBothDirectionsFull(t *testing.T) {
	t.Parallel()
	sys := newPipeSystem()
	c, _ := serve(t, floodSystem{sys})
	if err := c.Boot(t.Context(), Bootstrap{}); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	defer close(done)
	go func() { // the guest: each connection's echo
		for {
			select {
			case conn := <-sys.dialled:
				go func() {
					_, _ = io.Copy(conn, conn)
					conn.Close()
				}()
			case <-done:
				return
			}
		}
	}()
	var all sync.WaitGroup
	for i := range 24 {
		all.Go(func() {
			conn, err := c.Dial(t.Context(), "tcp", "127.0.0.1:1")
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
			if i%3 == 0 { // one that is cut off in the middle of everything
				go func() { _, _ = conn.Write(make([]byte, 4<<20)) }()
				_, _ = io.CopyN(io.Discard, conn, 1<<20)
				return
			}
			const size = 2 << 20
			there, back := sha256.New(), sha256.New()
			var writing sync.WaitGroup
			writing.Go(func() {
				_, _ = io.Copy(io.MultiWriter(conn, there), io.LimitReader(rand.NewChaCha8([32]byte{byte(i)}), size))
			})
			if _, err := io.CopyN(back, conn, size); err != nil {
				t.Errorf("connection %d: %v", i, err)
				return
			}
			writing.Wait()
			if !bytes.Equal(there.Sum(nil), back.Sum(nil)) {
				t.Errorf("connection %d: what came back is not what went there", i)
			}
		})
	}
	all.Wait()
}

// TestShutdownRefusesAtOnce checks that nothing waits for a shutdown that takes
// its time.
func TestShutdownRefusesAtOnce(t *testing.T) {
	t.Parallel()
	sys := &slowSystem{pipeSystem: newPipeSystem(), ending: make(chan struct{}), end: make(chan struct{})}
	c, _ := serve(t, sys)
	if err := c.Boot(t.Context(), Bootstrap{}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Shutdown(t.Context()) }()
	<-sys.ending
	var failed *StartError
	if _, err := c.Start(t.Context(), Command{Args: []string{"x"}}); !errors.As(err, &failed) || failed.Message != errEnding.Error() {
		t.Errorf("Start: %v", err)
	}
	var remote *RemoteError
	if err := c.Shutdown(t.Context()); !errors.As(err, &remote) || remote.Message != errEnding.Error() {
		t.Errorf("a second Shutdown: %v", err)
	}
	close(sys.end)
	if err := <-ended; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

// A slowSystem shuts down when it is told.
type slowSystem struct {
	*pipeSystem
	ending, end chan struct{}
}

func (s *slowSystem) Shutdown(time.Duration) {
	close(s.ending)
	<-s.end
}

// TestTransportOfAGuestThatDoesNotRead checks that what waits is bounded, that
// nobody waits for ever, and that Close ends it.
func TestTransportOfAGuestThatDoesNotRead(t *testing.T) {
	t.Parallel()
	ours, theirs := net.Pipe()
	defer theirs.Close()
	tr := newTransport(ours)
	defer tr.Close()
	var err error
	sent := 0
	for ; err == nil && sent < 2*maxWaiting; sent += packet {
		_, err = tr.Write(make([]byte, packet))
	}
	if !errors.Is(err, errNotReading) || sent > maxWaiting+4<<20 { // and what is being written
		t.Errorf("%d bytes were taken, then %v; want at most %d, then that it doesn't read", sent, err, maxWaiting)
	}
	tr.room(packet) // doesn't wait: nothing moves any more
	if _, err := tr.Read(make([]byte, 1)); err == nil || !tr.ended.Load() {
		t.Errorf("a read after that: %v", err)
	}
}

// TestQueueModel holds a queue to a slice of bytes, in random steps.
func TestQueueModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 64).Draw(t, "limit")
		consumed := 0
		q := newQueue(limit, func(n int) { consumed += n })
		var model []byte
		var read int
		next := byte(0)
		t.Repeat(map[string]func(*rapid.T){
			"offer": func(t *rapid.T) {
				p := make([]byte, rapid.IntRange(0, 80).Draw(t, "n"))
				for i := range p {
					p[i] = next + byte(i)
				}
				fits := len(model)+len(p) <= limit
				if q.offer(p) != fits {
					t.Fatalf("offer of %d to %d of %d is %v", len(p), len(model), limit, !fits)
				}
				if fits {
					model = append(model, p...)
					next += byte(len(p))
				}
			},
			"read": func(t *rapid.T) {
				if len(model) == 0 {
					return // it would wait
				}
				p := make([]byte, rapid.IntRange(1, 80).Draw(t, "n"))
				n, err := q.Read(p)
				if err != nil || n != min(len(p), len(model)) || !bytes.Equal(p[:n], model[:n]) {
					t.Fatalf("read %d, %v, %v; want the first of %v", n, err, p[:n], model)
				}
				model = model[n:]
				if read += n; consumed != read {
					t.Fatalf("told of %d bytes; want %d", consumed, read)
				}
			},
			"take": func(t *rapid.T) {
				if len(model) == 0 {
					return
				}
				data, err := q.take(nil)
				if err != nil || !bytes.Equal(data, model) {
					t.Fatalf("took %v, %v; want %v", data, err, model)
				}
				model = nil
			},
		})
		q.finish(io.EOF)
		if rest, err := io.ReadAll(q); err != nil || !bytes.Equal(rest, model) {
			t.Fatalf("at the end %v, %v; want %v", rest, err, model)
		}
	})
}
