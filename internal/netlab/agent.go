package netlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// An agent opens sockets in the lab's namespaces for the test's process, which
// must not enter them itself. It is a second process, so that a thread that
// changes its namespace is never one of the test's.
type agent struct {
	process *os.Process

	mu   sync.Mutex // guards conn's writes and its closing
	conn *net.UnixConn
}

// A request asks the agent for a socket in a namespace.
type request struct {
	Op        string        // listen, listenPacket, dial, capture, wire or sysctl
	Namespace string        // as ip netns knows it
	Network   string        // as package net knows it: tcp, udp4, …
	Address   string        // literal address and port; capture, wire: the interface; sysctl: the file
	Value     string        // sysctl: the content
	Timeout   time.Duration // dial: 0 means none
}

// A response comes with the socket, unless Error is set.
type response struct {
	Error   string
	Errno   syscall.Errno // 0 if Error has no system error in it
	Timeout bool          // Error is that the request's time is over
}

// err returns the response's error, with the system's errno in its chain so that
// a test can tell refused from unreachable.
func (r response) err(q request) error {
	cause := errors.New(r.Error)
	switch {
	case r.Error == "":
		return nil
	case r.Timeout:
		cause = os.ErrDeadlineExceeded
	case r.Errno != 0:
		cause = r.Errno
	}
	return fmt.Errorf("%s %s %s in %q: %w", q.Op, q.Network, q.Address, q.Namespace, cause)
}

// listen returns a listener in a namespace. Its Close is the only way to end it.
func (a *agent) listen(ctx context.Context, namespace, network, address string) (net.Listener, error) {
	f, err := a.do(ctx, request{Op: "listen", Namespace: namespace, Network: network, Address: address})
	if err != nil {
		return nil, err
	}
	defer f.Close() // FileListener duplicates
	return net.FileListener(f)
}

func (a *agent) listenPacket(ctx context.Context, namespace, network, address string) (net.PacketConn, error) {
	f, err := a.do(ctx, request{Op: "listenPacket", Namespace: namespace, Network: network, Address: address})
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return net.FilePacketConn(f)
}

func (a *agent) dial(ctx context.Context, namespace, network, address string) (net.Conn, error) {
	q := request{Op: "dial", Namespace: namespace, Network: network, Address: address}
	if deadline, ok := ctx.Deadline(); ok {
		q.Timeout = max(time.Until(deadline), time.Nanosecond)
	}
	f, err := a.do(ctx, q)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return net.FileConn(f)
}

// sysctl writes one of /proc/sys/net's files as a namespace sees it. A file that
// this kernel doesn't have is no error: what it would switch off isn't there.
func (a *agent) sysctl(ctx context.Context, namespace, file, value string) error {
	_, err := a.do(ctx, request{Op: "sysctl", Namespace: namespace, Address: file, Value: value})
	if errors.Is(err, syscall.ENOENT) {
		return nil
	}
	return err
}
