package netlab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Markers in argv[0] tell a process of ours what it is. The environment would
// hand them on to everything that a test starts.
const (
	insideName = "netlab:inside"
	agentName  = "netlab:agent"
)

// enter: see Enter.
func enter() error {
	switch os.Args[0] {
	case agentName:
		agentMain() // doesn't return
	case insideName:
		os.Args = os.Args[1:]
		if err := furnish(); err != nil {
			fmt.Fprintln(os.Stderr, "netlab:", err)
			os.Exit(1)
		}
		return nil
	}
	if err := probe(); err != nil {
		return err
	}
	os.Exit(runInside())
	return nil
}

// namespaces returns what a process gets that is to run apart from the real
// network. Unshareflags, not Cloneflags: os/exec then makes mounts private.
func namespaces() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{
		Unshareflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		Pdeathsig:    unix.SIGKILL,
	}
	if uid := os.Geteuid(); uid != 0 {
		attr.Cloneflags = unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return attr
}

// probe reports whether the kernel lets us make the namespaces, and iproute2 is
// there to furnish them, by doing it.
func probe() error {
	cmd := exec.Command("ip", "link", "add", "probe", "type", "veth", "peer", "name", "eborp")
	cmd.SysProcAttr = namespaces()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make a network namespace: %w %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// runInside runs this executable again with the same arguments inside new
// namespaces and returns its exit code. What that leaves running when it ends is
// killed, so that a test that panics leaves nothing behind.
func runInside() int {
	runtime.LockOSThread() // Pdeathsig follows the thread that forks
	// Orphans become our children.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "netlab: adopt orphans:", err)
		return 1
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = append([]string{insideName}, os.Args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = namespaces()
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT)
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "netlab: start the tests inside a namespace:", err)
		return 1
	}
	go forwardSignals(signals, cmd.Process) // ends with the process
	status, err := reapUntil(cmd.Process.Pid)
	patience := orphanPatience
	if err != nil || status.ExitStatus() != 0 {
		patience = 0
	}
	left := killOrphans(patience)
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "netlab: wait for the tests inside the namespace:", err)
		return 1
	case !status.Exited():
		fmt.Fprintln(os.Stderr, "netlab: the tests inside the namespace:", status.Signal())
		return 1
	case status.ExitStatus() == 0 && len(left) > 0:
		fmt.Fprintf(os.Stderr, "netlab: processes left by the tests: %q\n", left)
		return 1
	}
	return status.ExitStatus()
}

// forwardSignals passes on what go test sends to the process that it knows.
func forwardSignals(signals <-chan os.Signal, p *os.Process) {
	for s := range signals {
		p.Signal(s) // an error means that it has ended
	}
}

// furnish makes a fresh pair of namespaces a machine: loopback, echo sockets for
// everybody, and its own name service and certificates.
func furnish() error {
	if err := checkApart(); err != nil {
		return err
	}
	for _, dir := range []string{"/run", programs} {
		if err := unix.Mount("netlab", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
			return fmt.Errorf("mount a tmpfs on %s: %w", dir, err)
		}
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); strings.HasPrefix(dir, "/run/") {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	if err := ip("", "", "link set lo up"); err != nil {
		return err
	}
	if err := allowEcho(); err != nil {
		return err
	}
	for path, content := range map[string]string{
		"/etc/resolv.conf":   "# no lab yet\n",
		"/etc/hosts":         "127.0.0.1 localhost\n::1 localhost\n",
		"/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
		caBundle:             "# no lab yet\n",
	} {
		if err := replaceFile(path, content); err != nil {
			return err
		}
	}
	return nil
}

// checkApart makes sure that this namespace is new: nothing but loopback may be
// up, or a mistake of ours would send tests' packets to real machines.
func checkApart() error {
	ifaces, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, i := range ifaces {
		if i.Flags&net.FlagUp != 0 && i.Flags&net.FlagLoopback == 0 {
			return fmt.Errorf("interface %s is up: this is not a fresh network namespace", i.Name)
		}
	}
	return nil
}

// allowEcho lets every group open ICMP echo sockets. A new namespace forbids them
// to all, root included. In a user namespace only mapped groups can be named.
func allowEcho() error {
	const file = "/proc/sys/net/ipv4/ping_group_range"
	if os.WriteFile(file, []byte("0 2147483647"), 0) == nil {
		return nil
	}
	return os.WriteFile(file, []byte("0 0"), 0)
}

// replaceFile gives path a content that only this mount namespace sees. A path
// that doesn't exist is left alone: nothing on this machine reads it.
func replaceFile(path, content string) error {
	// A symbolic link into /run (systemd's resolv.conf) now dangles.
	if to, err := os.Readlink(path); err == nil {
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(path), to)
		}
		if strings.HasPrefix(to, "/run/") {
			return writeFile(to, content)
		}
	}
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	source := filepath.Join("/run/netlab", path)
	if err := writeFile(source, content); err != nil {
		return err
	}
	if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("cover %s: %w", path, err)
	}
	return nil
}
