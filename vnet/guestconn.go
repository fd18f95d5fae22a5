package vnet

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/waiter"
)

// A guestConn is the guest's end of a flow as a net.Conn, for those who serve it
// themselves: the DNS proxy, an Inspector, DialGuest's caller. Its addresses are
// those that the guest wrote. It counts the flow's bytes.
type guestConn struct {
	*gonet.TCPConn
	flow *tcpFlow
	ep   tcpip.Endpoint
	wq   *waiter.Queue

	resets atomic.Bool // the close is to be a reset
	closed atomic.Bool
}

func newGuestConn(f *tcpFlow, ep tcpip.Endpoint, wq *waiter.Queue) *guestConn {
	return &guestConn{TCPConn: gonet.NewTCPConn(wq, ep), flow: f, ep: ep, wq: wq}
}

// serve has the connection served until the flow has ended, and returns how it
// did. A cut resets the guest and fails whatever handle is waiting for.
func (c *guestConn) serve(handle func(net.Conn)) string {
	defer c.wq.EventUnregister(watch(c.flow, c.ep, c.wq))
	aborted := make(chan struct{})
	stop := context.AfterFunc(c.flow.ctx, func() {
		defer close(aborted)
		c.ep.Abort()
	})
	handle(c)
	c.Close() // as it should be by now
	if !c.resets.Load() {
		settle(c.flow, c.ep, c.wq)
	}
	if !stop() {
		<-aborted
	}
	if why := c.flow.cutReason(); why != "" {
		return why
	}
	if c.resets.Load() {
		return endReset
	}
	return endFIN
}

// Read reads what the guest has sent; io.EOF is the end of its stream and nothing
// else.
func (c *guestConn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	c.flow.bytesOut.Add(uint64(n))
	c.flow.buffers.sawOut(n)
	return n, c.explain("read", err)
}

// Write returns when the flow's buffer has taken all of b.
func (c *guestConn) Write(b []byte) (int, error) {
	c.flow.buffers.expectIn(len(b))
	n, err := c.TCPConn.Write(b)
	c.flow.bytesIn.Add(uint64(n))
	return n, c.explain("write", err)
}

// explain makes an error one that net.Conn's users know: gVisor's are text.
func (c *guestConn) explain(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case c.closed.Load():
		err = net.ErrClosed
	case err == io.EOF:
		return err
	case isTimeout(err):
		err = os.ErrDeadlineExceeded
	default:
		err = syscall.ECONNRESET
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// CloseWrite sends the guest the end of the stream; of a flow that is cut there
// is none.
func (c *guestConn) CloseWrite() error {
	if c.flow.cutReason() != "" {
		return c.explain("close", net.ErrClosed)
	}
	c.flow.ended.Store(true)
	return c.explain("close", c.TCPConn.CloseWrite())
}

// Close ends the connection: behind the bytes that were written, or with a reset
// if that was asked for or the flow is cut. It is idempotent.
func (c *guestConn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	c.flow.ended.Store(true)
	if c.resets.Load() || c.flow.cutReason() != "" {
		c.ep.Abort()
	} else {
		c.ep.Close()
	}
	return nil
}

// LocalAddr returns the address that the guest wrote to.
func (c *guestConn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.flow.key.remote) }

// RemoteAddr returns the guest's.
func (c *guestConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.flow.key.guest) }
