package guest

import (
	"io"
	"net"
	"sync"

	"golang.org/x/crypto/ssh"
)

// An endpoint is the guest's end of an SSH channel.
type endpoint struct {
	transport *transport
	ssh       ssh.Channel
	out, errs *outlet
	gone      chan struct{} // closed when the host has closed the channel, or the stream ended
	finished  sync.Once
	closing   sync.Once
}

// accept accepts a channel. handle gets the host's requests that not every type
// of channel has; nil expects none.
func accept(t *transport, ch ssh.NewChannel, handle func(*ssh.Request)) (*endpoint, error) {
	s, requests, err := ch.Accept()
	if err != nil {
		return nil, err
	}
	e := &endpoint{transport: t, ssh: s, out: newOutlet(t, s), errs: newOutlet(t, s.Stderr()), gone: make(chan struct{})}
	go e.requests(requests, handle) // ends with the channel, and close waits for it
	return e, nil
}

// requests handles the host's requests.
func (e *endpoint) requests(requests <-chan *ssh.Request, handle func(*ssh.Request)) {
	defer close(e.gone)
	for r := range requests {
		var out, errs uint32
		switch {
		case r.Type == requestCredit && parseNumbers(r.Payload, &out, &errs) == nil:
			e.out.add(out)
			e.errs.add(errs)
		case handle != nil:
			handle(r)
		}
		// None wants a reply. One that we don't know is of a newer host's.
	}
	e.out.close()
	e.errs.close()
}

// tell sends a request of the guest's. The host may be gone.
func (e *endpoint) tell(request string, payload []byte) {
	_, _ = e.ssh.SendRequest(request, false, payload)
}

// feed writes what the host sends to w until its end. When w takes no more the
// host is told, and the rest is dropped.
func (e *endpoint) feed(w io.Writer) {
	if copyData(w, e.ssh) == nil {
		return
	}
	e.tell(requestBroken, nil)
	_ = copyData(io.Discard, e.ssh)
}

// Read reads what the host sends.
func (e *endpoint) Read(p []byte) (int, error) { return e.ssh.Read(p) }

// Write writes to the host.
func (e *endpoint) Write(p []byte) (int, error) { return e.out.Write(p) }

// Close closes the channel.
func (e *endpoint) Close() error {
	e.close()
	return nil
}

// finish says that no more data follows. Nothing may be written meanwhile.
func (e *endpoint) finish() {
	e.finished.Do(func() {
		e.tell(requestEnded, nil)
		_ = e.ssh.CloseWrite() // the host may be gone
	})
}

// close closes the channel, and returns when the host has too.
func (e *endpoint) close() {
	e.closing.Do(func() { _ = e.ssh.Close() })
	<-e.gone
}

// copyData copies from r to w until r ends. Its error is what either failed with.
func copyData(w io.Writer, r io.Reader) error {
	buf := make([]byte, packet)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// An outlet writes one of a channel's streams, as the host gives credit.
type outlet struct {
	transport *transport
	ssh       io.Writer

	mu     sync.Mutex // guards the following fields
	more   *sync.Cond // credit, or the end; holds mu
	credit int        // bytes
	closed bool
}

// newOutlet returns an outlet with a whole window's credit.
func newOutlet(t *transport, w io.Writer) *outlet {
	o := &outlet{transport: t, ssh: w, credit: streamWindow}
	o.more = sync.NewCond(&o.mu)
	return o
}

// add adds to the credit.
func (o *outlet) add(n uint32) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.credit += int(n)
	o.more.Broadcast()
}

// close makes writes fail.
func (o *outlet) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.more.Broadcast()
}

// take waits for credit and takes at most n bytes' of it; 0 after close.
func (o *outlet) take(n int) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.credit == 0 && !o.closed {
		o.more.Wait()
	}
	if o.closed {
		return 0
	}
	n = min(n, o.credit)
	o.credit -= n
	return n
}

// Write writes p, waiting for credit and for room in the stream. One goroutine
// writes at a time.
func (o *outlet) Write(p []byte) (int, error) {
	written := 0
	for written < len(p) {
		n := o.take(min(len(p)-written, packet))
		if n == 0 {
			return written, net.ErrClosed
		}
		o.transport.room(n)
		if _, err := o.ssh.Write(p[written : written+n]); err != nil {
			return written, err
		}
		written += n
	}
	return written, nil
}
