package netlab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxMessage bounds a request or response, in bytes of JSON.
const maxMessage = 4096

// startAgent starts the agent, in an empty network namespace: if a thread of it
// were ever in the wrong one, its packets would lead nowhere. It ends when the
// caller closes it or dies.
func startAgent() (*agent, error) {
	ours, theirs, err := unixPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{agentName}
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		ours.Close()
		return nil, fmt.Errorf("start the lab's agent: %w", err)
	}
	return &agent{process: cmd.Process, conn: ours}, nil
}

// do sends a request and waits for the socket; the file is nil for a request
// that asks for none. Any number may be under way at once: each brings the
// socket that its response goes to.
func (a *agent) do(ctx context.Context, q request) (*os.File, error) {
	reply, theirs, err := unixPair()
	if err != nil {
		return nil, err
	}
	defer reply.Close()
	stop := context.AfterFunc(ctx, func() { reply.Close() })
	defer stop()
	err = a.send(q, theirs)
	theirs.Close()
	if err != nil {
		return nil, err
	}
	var r response
	f, err := receive(reply, &r)
	if ctx.Err() != nil {
		if f != nil {
			f.Close()
		}
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("ask the lab's agent: %w", err)
	}
	return f, r.err(q)
}

func (a *agent) send(q request, reply *os.File) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return send(a.conn, q, reply)
}

// close ends the agent and waits for it.
func (a *agent) close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.conn.Close()
	_, err := a.process.Wait()
	return err
}

// agentMain is the agent's process: it serves requests until the other end of
// descriptor 3 is closed.
func agentMain() {
	conn, err := fileConn(os.NewFile(3, "requests"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "netlab: agent:", err)
		os.Exit(1)
	}
	for {
		var q request
		reply, err := receive(conn, &q)
		if err != nil {
			os.Exit(0)
		}
		go serve(q, reply)
	}
}

// serve answers one request on a thread of its own, which ends with it: it is not
// unlocked, since it is in another namespace now.
func serve(q request, reply *os.File) {
	runtime.LockOSThread()
	defer reply.Close()
	conn, err := fileConn(reply)
	if err != nil {
		return
	}
	defer conn.Close()
	f, err := q.open()
	var r response
	if err != nil {
		r.Error = err.Error()
		errors.As(err, &r.Errno)
		var ne net.Error
		r.Timeout = errors.As(err, &ne) && ne.Timeout()
	}
	send(conn, r, f) // an error means that nobody waits any more
	if f != nil {
		f.Close()
	}
}

// open does what the request asks for; it changes the thread's namespace.
func (q request) open() (*os.File, error) {
	if err := enterNamespace(q.Namespace); err != nil {
		return nil, err
	}
	switch q.Op {
	case "listen":
		l, err := net.Listen(q.Network, q.Address)
		if err != nil {
			return nil, err
		}
		defer l.Close()
		return fileOf(l)
	case "listenPacket":
		c, err := net.ListenPacket(q.Network, q.Address)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		return fileOf(c)
	case "dial":
		c, err := net.DialTimeout(q.Network, q.Address, q.Timeout)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		return fileOf(c)
	case "capture":
		return packetSocket(q.Address)
	case "wire":
		return wireSocket(q.Address)
	case "sysctl":
		return nil, os.WriteFile(filepath.Join("/proc/sys/net", q.Address), []byte(q.Value), 0)
	}
	return nil, fmt.Errorf("unknown operation %q", q.Op)
}

func fileOf(socket any) (*os.File, error) {
	return socket.(interface{ File() (*os.File, error) }).File()
}

func enterNamespace(name string) error {
	f, err := os.Open(namespacePath(name))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter namespace %q: %w", name, err)
	}
	return nil
}

// unixPair returns a connected pair that keeps messages apart.
func unixPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	conn, err := fileConn(os.NewFile(uintptr(fds[0]), "agent"))
	theirs := os.NewFile(uintptr(fds[1]), "agent")
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return conn, theirs, nil
}

// fileConn returns the connection over f, which it closes.
func fileConn(f *os.File) (*net.UnixConn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return c.(*net.UnixConn), nil
}

// send sends a message with a file, which may be nil and stays the caller's.
func send(c *net.UnixConn, message any, f *os.File) error {
	data, err := json.Marshal(message)
	if err != nil {
		return err
	}
	var rights []byte
	if f != nil {
		rights = unix.UnixRights(int(f.Fd()))
	}
	_, _, err = c.WriteMsgUnix(data, rights, nil)
	return err
}

// receive receives a message and the file that came with it, nil if none.
func receive(c *net.UnixConn, message any) (*os.File, error) {
	data, rights := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4))
	n, rn, _, _, err := c.ReadMsgUnix(data, rights)
	if err != nil {
		return nil, err
	}
	var f *os.File
	if messages, err := unix.ParseSocketControlMessage(rights[:rn]); err == nil && len(messages) == 1 {
		if fds, err := unix.ParseUnixRights(&messages[0]); err == nil && len(fds) == 1 {
			unix.SetNonblock(fds[0], true) // File.Fd of the sender made it block
			f = os.NewFile(uintptr(fds[0]), "passed")
		}
	}
	if n == 0 {
		err = fmt.Errorf("end of messages: %w", net.ErrClosed)
	} else {
		err = json.Unmarshal(data[:n], message)
	}
	if err != nil && f != nil {
		f.Close()
		f = nil
	}
	return f, err
}
