//go:build cgo

package krun

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/internal/guest"
)

// roles are what this binary is besides a test, by argv[0]. The stub library runs
// it as the guest: its first process has the descriptors that the library was
// given, and starts process 1 in namespaces of its own, which stand for the
// machine. There our agent serves, on our port, and a TAP's frames go over our
// card.
var roles = map[string]func(){Role: Main, "krun-guest": guestMain, "krun-process-1": process1Main, hostRole: hostMain, sealRole: sealMain}

// guestMain runs process 1 and ends as it does.
func guestMain() {
	runtime.LockOSThread() // for Pdeathsig
	cmd := &exec.Cmd{
		Path:   "/proc/self/exe",
		Args:   append([]string{"krun-process-1"}, os.Args[1:]...),
		Env:    os.Environ(),
		Stderr: os.Stderr,
		SysProcAttr: &unix.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
			Pdeathsig:   unix.SIGKILL,
		},
	}
	for _, arg := range os.Args[1:] { // agent, status, console, card
		var f *os.File
		if fd, err := strconv.Atoi(arg); err == nil {
			f = os.NewFile(uintptr(fd), "given")
		}
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, "krun-guest:", err)
		os.Exit(1)
	}
	os.Exit(cmd.ProcessState.ExitCode())
}

// process1Main is package machine's Main without a machine.
func process1Main() {
	status := os.NewFile(4, "status")
	err := process1(status)
	code := 0
	if err != nil {
		code = guest.CodeRefused
		fmt.Fprintf(os.Stderr, "krun-process-1: %v\n", err)
		fmt.Fprintf(status, "failed %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	fmt.Fprintf(status, "exit %d\n", code)
	os.Exit(0) // as a machine that resets itself does
}

func process1(status *os.File) error {
	if !strings.Contains(os.Getenv("WORDS"), "sluice.root=virtiofs") {
		return fmt.Errorf("process 1 is told %s", os.Getenv("WORDS"))
	}
	if _, err := os.Stat(os.Getenv("BOOT") + "/sluice:machine"); err != nil {
		return err
	}
	if os.Args[3] != "-" {
		console := os.NewFile(5, "console")
		fmt.Fprintf(console, "the kernel says hello\n")
		console.Close()
	}
	if os.Args[4] != "-" {
		if err := cardUp(); err != nil {
			return fmt.Errorf("plug the card in: %w", err)
		}
	}
	if err := enterTestRoot(os.Getenv("ROOT")); err != nil {
		return err
	}
	if err := guest.TuneKernel(); err != nil {
		return err
	}
	agent, err := net.FileConn(os.NewFile(3, "agent"))
	if err != nil {
		return err
	}
	unix.Close(3) // the connection has its own
	unix.CloseOnExec(4)
	sys, err := guest.NewSystem(nil)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(status, "ready 1ms 2ms\n"); err != nil {
		return err
	}
	return guest.Serve(agent, sys)
}

// cardUp makes the card, a TAP, and carries its frames.
func cardUp() error {
	tun, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	request, err := unix.NewIfreq("eth0")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(tun, unix.TUNSETIFF, request); err != nil {
		return err
	}
	card, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	mac, err := net.ParseMAC(os.Getenv("MAC"))
	if err != nil {
		return err
	}
	if err := netlink.LinkSetHardwareAddr(card, mac); err != nil {
		return err
	}
	unix.CloseOnExec(6)
	tap, stream := os.NewFile(uintptr(tun), "tap"), os.NewFile(6, "card")
	go sendFrames(stream, tap)
	go receiveFrames(tap, stream)
	return nil
}

// sendFrames is the driver's half that sends: bare frames behind their lengths.
func sendFrames(stream io.Writer, tap io.Reader) {
	buf := make([]byte, 4+65550)
	for {
		n, err := tap.Read(buf[4:])
		if err != nil {
			return
		}
		binary.BigEndian.PutUint32(buf, uint32(n))
		if _, err := stream.Write(buf[:4+n]); err != nil {
			return
		}
	}
}

// receiveFrames is the half that receives.
func receiveFrames(tap io.Writer, stream io.Reader) {
	buf := make([]byte, 65550)
	for {
		if _, err := io.ReadFull(stream, buf[:4]); err != nil {
			return
		}
		n := binary.BigEndian.Uint32(buf)
		if _, err := io.ReadFull(stream, buf[:n]); err != nil {
			return
		}
		_, _ = tap.Write(buf[:n]) // refused while the card is down
	}
}

// enterTestRoot makes dir, with memory over it, the root.
func enterTestRoot(dir string) error {
	const place = "/mnt"
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", place, "tmpfs", 0, ""); err != nil {
		return err
	}
	for _, name := range []string{"upper", "work", "root"} {
		if err := os.Mkdir(filepath.Join(place, name), 0o755); err != nil {
			return err
		}
	}
	root := place + "/root"
	if err := unix.Mount("overlay", root, "overlay", 0, "userxattr,lowerdir="+dir+",upperdir="+place+"/upper,workdir="+place+"/work"); err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	for _, name := range []string{"proc", "dev", "etc", "tmp", "run"} {
		if err := os.MkdirAll(filepath.Join(root, name), 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("proc", root+"/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Mount("/dev", root+"/dev", "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount /dev: %w", err)
	}
	if err := unix.Chroot(root); err != nil {
		return err
	}
	return os.Chdir("/")
}
