package krun

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// refused is the exit code of a VM's process that started no VM: what container
// tools use, and libkrun's init.
const refused = 125

// parting is how long a guest may go on after the host has closed the agent's
// stream. Its agent ends by itself and takes the machine down, in a tenth of a
// second; one that doesn't is ended.
const parting = 2 * time.Second

// Main is the process of a VM: call it where os.Args[0] is Role, before anything
// else runs. It does not return. The process's exit code is what libkrun makes of
// the guest's end, and 125 if no guest ran.
func Main() {
	// libkrun's functions are called by one thread, which it then keeps.
	runtime.LockOSThread()
	control, err := unixConn(controlFD)
	if err != nil {
		fmt.Fprintf(os.Stderr, "sluice: %s is not a program to start by hand\n", Role)
		os.Exit(refused)
	}
	live(control)
	os.Exit(refused)
}

// live is the life of the process. Errors go to the host by the control socket.
func live(control *net.UnixConn) {
	fail := func(err error) { _ = send(control, report{Failure: failureOf(err)}) } // or the host is gone
	if err := prepare(); err != nil {
		fail(err)
		return
	}
	var q query
	if err := receive(control, &q); err != nil {
		fail(fmt.Errorf("read query: %w", err))
		return
	}
	// Whose constructors run here, after prepare: in the host's process they never do.
	f, path, err := openLibrary(q.Libraries)
	if err != nil {
		fail(err)
		return
	}
	o, err := examine(f, path)
	if err != nil {
		fail(err)
		return
	}
	if err := send(control, report{Offer: &o}); err != nil {
		return
	}
	var s spec
	if err := receive(control, &s); err != nil {
		fail(fmt.Errorf("read spec: %w", err))
		return
	}
	// They end with the process, and begin before the first call that may take long: a
	// host that dies meanwhile leaves nothing.
	go obey(control, s.Dir)
	go dieOfSignal(s.Dir)
	go dieWithAgent()
	ctx, err := configure(f, s)
	if err != nil {
		fail(err)
		return
	}
	if len(s.Vsock) == 0 { // else it connects to those sockets, and obey seals it
		if err := seal(); err != nil {
			fail(err)
			return
		}
	}
	if err := send(control, report{Ready: true}); err != nil {
		return
	}
	// It ends the process when the guest ends, so what returns is an error.
	fail(result("krun_start_enter", f.startEnter(ctx)))
}

// prepare makes the process fit to be a VM. It runs before the library is opened.
func prepare() error {
	if err := closeInherited(cardFD); err != nil {
		return err
	}
	// The guest's memory is this process's: no core, and no way to more
	// privileges for whoever breaks out.
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid cores: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid new privileges: %w", err)
	}
	// A directory that the guest sees costs a descriptor for each file it knows.
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return fmt.Errorf("read limit on files: %w", err)
	}
	files.Cur = files.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return fmt.Errorf("raise limit on files: %w", err)
	}
	return nil
}

// closeInherited closes the descriptors above last that came through exec: a host
// may have some without close-on-exec. Those are the ones without the flag here
// too; the runtime's own have it.
func closeInherited(last int) error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries { // of ReadDir's own too, which is closed by now
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= last {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
	return nil
}

// obey ends the process, and so the guest, when the host's end of the control socket
// is closed: by Close, or by the host's death. Before that it seals it when told to.
func obey(control *net.UnixConn, dir string) {
	for {
		var o order
		if err := receive(control, &o); err != nil {
			die(dir)
		}
		if !o.Seal {
			continue
		}
		if err := seal(); err != nil {
			_ = send(control, report{Failure: failureOf(err)})
			die(dir)
		}
		if err := send(control, report{Sealed: true}); err != nil {
			die(dir)
		}
	}
}

// dieOfSignal ends the process when it is told to, as the kernel does when the
// host dies. That is for the case that the host's end of the control socket
// outlives the host, in a child that it leaked to.
func dieOfSignal(dir string) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM)
	<-signals
	die(dir)
}

// die ends the process and removes the machine's directory, which nobody else does
// after the host's death.
func die(dir string) {
	os.RemoveAll(dir)
	os.Exit(refused)
}

// dieWithAgent ends the process when the host has closed the agent's stream and
// the guest goes on. libkrun tells the guest; what it makes of that is its affair.
func dieWithAgent() {
	fds := []unix.PollFd{{Fd: agentFD, Events: unix.POLLRDHUP}}
	for {
		if _, err := unix.Poll(fds, -1); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	<-time.After(parting)
	os.Exit(refused)
}
