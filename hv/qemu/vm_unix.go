//go:build unix

package qemu

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/hv/internal/ends"
	"github.com/sluicenet/sluice/hv/internal/tail"
	"github.com/sluicenet/sluice/internal/guest"
	"github.com/sluicenet/sluice/internal/guest/machine"
)

// hangUpTime is how long a guest may live on when its agent's stream was closed.
// One that means well resets itself within milliseconds.
const hangUpTime = 3 * time.Second

// A vm is a running guest.
type vm struct {
	ends.Ends
	ends.End // set by run when all is over

	cmd      *exec.Cmd // the supervisor
	lifeline net.Conn  // QEMU ends when it is closed

	mu     sync.Mutex // guards the following fields
	status machine.Status
	pid    int         // QEMU's; 0 until the supervisor has told
	late   *time.Timer // kills a guest whose agent's stream was closed; nil before that

	changed chan struct{} // gets a value when status has changed; has room for one
	console tail.Tail     // what the guest's kernel prints
	words   tail.Tail     // QEMU's standard error
}

// Streams are our ends of what run reads. It closes them.
type streams struct {
	status         net.Conn
	console, words *os.File  // the read ends of pipes
	also           io.Writer // gets all that comes from console; nil if nobody wants it
}

// run starts the supervisor and waits until it has ended and all that it and QEMU
// wrote was read. It keeps its thread until then: Pdeathsig follows the thread
// that forked, not the process.
func (v *vm) run(s streams, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var exit hv.Exit
	defer func() { v.SetEnd(exit) }()
	defer s.close()
	err := v.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	var readers sync.WaitGroup
	readers.Go(func() { v.console.Drain(s.console, s.also) })
	readers.Go(func() { v.words.Drain(s.words, nil) })
	readers.Go(func() { v.follow(s.status) })
	readers.Go(func() { v.readPID(v.lifeline) })
	_ = v.cmd.Wait() // how it ended is in ProcessState
	if status := v.cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() {
		v.killOrphan()
	}
	readers.Wait() // each stream ends with QEMU
	exit = v.outcome(v.cmd.ProcessState)
}

// close closes the streams.
func (s streams) close() {
	s.status.Close()
	s.console.Close()
	s.words.Close()
}

// follow keeps the guest's status. A guest that talks nonsense is not ours any
// more.
func (v *vm) follow(port io.Reader) {
	err := machine.Follow(port, func(s machine.Status) {
		v.mu.Lock()
		v.status = s
		v.mu.Unlock()
		select {
		case v.changed <- struct{}{}:
		default:
		}
	})
	if err == nil || errors.Is(err, syscall.ECONNRESET) {
		return
	}
	v.Kill()
	_, _ = io.Copy(io.Discard, port)
}

// readPID reads QEMU's process number, until the lifeline's other end is closed.
func (v *vm) readPID(lifeline io.Reader) {
	line, err := bufio.NewReaderSize(io.LimitReader(lifeline, 16), 16).ReadString('\n')
	if err == nil {
		v.mu.Lock()
		v.pid, _ = strconv.Atoi(strings.TrimSpace(line))
		v.mu.Unlock()
	}
}

// killOrphan kills QEMU when somebody has killed its supervisor. On Linux the
// kernel has; the number can't be another's yet where the socket still has its
// other end, which is QEMU's, and elsewhere the window is that of a reaping.
func (v *vm) killOrphan() {
	v.mu.Lock()
	pid := v.pid
	v.mu.Unlock()
	if pid > 0 && runtime.GOOS != "linux" {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// outcome says how the guest ended, by what process 1 told and by how QEMU ended.
func (v *vm) outcome(state *os.ProcessState) hv.Exit {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.late != nil {
		v.late.Stop()
	}
	status := state.Sys().(syscall.WaitStatus)
	code := state.ExitCode()
	switch {
	case status.Signaled():
		return hv.Exit{Code: -1, Signal: int(status.Signal())}
	case code > 128: // the supervisor's words for a signal
		return hv.Exit{Code: -1, Signal: code - 128}
	case code == 0 && v.status.Exited:
		return hv.Exit{Code: v.status.Exit}
	}
	return hv.Exit{Code: guest.CodeRefused} // a reset without a word: a panic
}

// Agent returns the agent's stream. See hv.VM.
func (v *vm) Agent() net.Conn {
	agent := v.Ends.Agent()
	if agent == nil {
		return nil // not a net.Conn that holds a nil pointer
	}
	return &agentConn{Conn: agent, vm: v}
}

// An agentConn is the agent's stream. The guest ends with it, by its own will or
// against it.
type agentConn struct {
	net.Conn
	vm   *vm
	once sync.Once
}

// Close closes the stream.
func (c *agentConn) Close() error {
	c.once.Do(c.vm.hangUp)
	return c.Conn.Close()
}

// hangUp ends the guest soon, unless it does so itself.
func (v *vm) hangUp() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.late = time.AfterFunc(hangUpTime, func() { v.Kill() })
}

// Kill ends QEMU by way of its supervisor.
func (v *vm) Kill() error {
	v.lifeline.Close() // a second time, an error that says nothing
	return nil
}

// Close ends the guest and closes what the caller didn't take.
func (v *vm) Close() error {
	err := v.Kill()
	<-v.Done()
	v.CloseEnds()
	return err
}
