package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

// Bounds of a channel's queues in bytes.
const (
	// streamWindow is how much the guest may send into a stream that nobody
	// reads. A reader that keeps up, and is told of a quarter at a time, lets a
	// gigabyte a second through at a round trip of 0.7 ms.
	streamWindow = 1 << 20
	// outgoing is how much waits for the guest before a writer does.
	outgoing = 4 * packet
)

// A channel is the host's end of an SSH channel. Its goroutines read from SSH
// whatever comes and whether or not anybody wants it, so that a channel whose
// user sleeps is no obstacle for the others.
type channel struct {
	client *Client
	ssh    ssh.Channel
	handle requestHandler // nil is nothing

	out, errs *queue        // from the guest: data, and extended data
	in        *queue        // to the guest
	ended     chan struct{} // closed by requests when the guest said that no data follows
	gone      chan struct{} // closed by requests when SSH has closed the channel
	pumped    chan struct{} // closed by pump when it has ended
}

// A requestHandler handles the guest's requests that not every type of channel
// has. It is called by one goroutine.
type requestHandler func(*channel, *ssh.Request) error

// open opens a channel when there is one to have.
func (c *Client) open(ctx context.Context, channelType string, extra []byte, handle requestHandler) (*channel, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	conn, err := c.connect(ctx)
	if err != nil {
		<-c.slots
		return nil, err
	}
	type result struct {
		ch  *channel
		err error
	}
	opened := make(chan result, 1)
	go func() {
		ch, err := c.openNow(conn, channelType, extra, handle)
		if err != nil {
			<-c.slots
		}
		opened <- result{ch, err}
	}()
	select {
	case r := <-opened:
		return r.ch, r.err
	case <-c.down:
		// SSH never answers an open that comes between its last look for those that
		// wait and its end: that goroutine is left behind, with nothing but itself.
		return nil, c.failure()
	case <-ctx.Done():
		go func() {
			if r := <-opened; r.ch != nil {
				r.ch.close()
			}
		}()
		return nil, context.Cause(ctx)
	}
}

// openNow opens a channel, for which there is a slot.
func (c *Client) openNow(conn ssh.Conn, channelType string, extra []byte, handle requestHandler) (*channel, error) {
	s, requests, err := conn.OpenChannel(channelType, extra)
	var refused *ssh.OpenChannelError
	switch {
	case errors.As(err, &refused):
		f, err := parseFailure(refused.Message)
		if err != nil {
			return nil, c.fail(err)
		}
		return nil, f.asError()
	case err != nil:
		return nil, c.failure()
	}
	ch := &channel{client: c, ssh: s, handle: handle, ended: make(chan struct{}), gone: make(chan struct{}), pumped: make(chan struct{})}
	var read [2]atomic.Int64 // bytes that the guest has no credit for yet
	ch.out = newQueue(streamWindow, func(n int) { ch.credit(&read[0], n, 0) })
	ch.errs = newQueue(streamWindow, func(n int) { ch.credit(&read[1], n, 1) })
	ch.in = newQueue(outgoing, nil)
	if !c.goroutine(func() { ch.live(requests) }) {
		return nil, c.failure()
	}
	return ch, nil
}

// asError returns what f says.
func (f failure) asError() error {
	if f.Code != 0 {
		failed := &StartError{Code: f.Code, Message: f.Message}
		if !failed.valid() {
			failed.Code = CodeRefused
		}
		return failed
	}
	remote := &RemoteError{Message: f.Message}
	switch f.Cause {
	case causeRefused:
		remote.cause = syscall.ECONNREFUSED
	case causeMissing:
		remote.cause = fs.ErrNotExist
	case causeTimeout:
		remote.cause = os.ErrDeadlineExceeded
	}
	return remote
}

// live runs the channel until SSH has closed it and all that came was passed on.
func (ch *channel) live(requests <-chan *ssh.Request) {
	var parts sync.WaitGroup
	parts.Go(func() { ch.receive(ch.ssh, ch.out) })
	parts.Go(func() { ch.receive(ch.ssh.Stderr(), ch.errs) })
	parts.Go(ch.pump)
	ch.requests(requests)
	close(ch.gone)
	ch.in.breakOff(ch.cut())
	parts.Wait()
	<-ch.client.slots
}

// requests handles the guest's requests. All are taken off SSH, which would wait
// with everything else.
func (ch *channel) requests(requests <-chan *ssh.Request) {
	for r := range requests {
		err := ch.request(r)
		if err != nil {
			ch.client.fail(fmt.Errorf("request %s: %w", printable(shorten(r.Type)), err))
		}
	}
}

// request handles one.
func (ch *channel) request(r *ssh.Request) error {
	switch {
	case r.Type == requestEnded:
		select {
		case <-ch.ended:
			return fmt.Errorf("%w: for the second time", errProtocol)
		default:
			close(ch.ended)
			return nil
		}
	case r.Type == requestBroken:
		ch.in.breakOff(syscall.EPIPE)
		return nil
	case ch.handle != nil:
		return ch.handle(ch, r)
	}
	return fmt.Errorf("%w: unknown", errProtocol)
}

// receive moves what comes from SSH into q. SSH shows a stream that was cut off
// as one that ended; the guest's word tells them apart.
func (ch *channel) receive(from io.Reader, q *queue) {
	buf := make([]byte, packet)
	for {
		n, err := from.Read(buf)
		if !q.offer(buf[:n]) {
			ch.client.fail(fmt.Errorf("%w: more data than there is credit for", errProtocol))
		}
		if err == nil {
			continue
		}
		select {
		case <-ch.ended:
		case <-ch.gone:
		}
		select {
		case <-ch.ended:
			q.finish(io.EOF)
		default:
			q.finish(ch.cut())
		}
		return
	}
}

// cut is the error of a channel that ended before its time.
func (ch *channel) cut() error { return ch.client.failure() }

// credit tells the guest how much of a stream was read, when it is enough to
// speak of.
func (ch *channel) credit(read *atomic.Int64, n int, stream int) {
	if read.Add(int64(n)) < streamWindow/4 {
		return
	}
	var counts [2]uint32
	counts[stream] = uint32(read.Swap(0))
	// A channel that has ended wants no credit.
	_, _ = ch.ssh.SendRequest(requestCredit, false, encodeNumbers(counts[:]...))
}

// pump sends what is written to in, and its end.
func (ch *channel) pump() {
	defer close(ch.pumped)
	buf := make([]byte, packet)
	for {
		n, err := ch.in.Read(buf)
		if n > 0 {
			ch.client.transport.room(n)
			if _, err := ch.ssh.Write(buf[:n]); err != nil {
				ch.in.breakOff(ch.cut())
				return
			}
			continue
		}
		if err == io.EOF {
			_ = ch.ssh.CloseWrite() // an error where the channel is closed
		}
		return
	}
}

// close closes the channel at once. It is idempotent, and doesn't wait for the
// guest.
func (ch *channel) close() { ch.abort(net.ErrClosed) }

// abort closes the channel, and err is what its users get.
func (ch *channel) abort(err error) {
	for _, q := range []*queue{ch.out, ch.errs, ch.in} {
		q.breakOff(err)
	}
	_ = ch.ssh.Close() // an error where it is closed already
}

// lingerTime bounds how long what was written before a connection's Close is
// waited for. It is TCP's own measure of a peer that doesn't read.
const lingerTime = 10 * time.Second

// linger closes the channel when what was written is sent.
func (ch *channel) linger() {
	ch.out.breakOff(net.ErrClosed)
	ch.errs.breakOff(net.ErrClosed)
	ch.in.finish(io.EOF)
	ch.client.goroutine(func() { // if it can't be: then the channel is gone
		t := time.NewTimer(lingerTime)
		defer t.Stop()
		select {
		case <-ch.pumped:
		case <-t.C:
		}
		ch.close()
	})
}
