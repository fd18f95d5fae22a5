package hvtest

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
	"github.com/sluicenet/sluice/vnet/link"
)

// A Machine plays a virtual machine where there is none: namespaces of its own stand
// for the hardware and the kernel, the agent in it is ours, and a TAP's frames go
// over the card. A backend whose hypervisor is a stub or a fake runs the suite with
// it. It is a process of the test's executable, whose TestMain calls [PlayMachine];
// what isn't written in Go executes that itself, with the arguments and environment
// that Command gives.
type Machine struct {
	// Agent, Status, Console and Card are the machine's ends; the last two may be
	// nil. They stay the caller's.
	Agent, Status, Console, Card *os.File

	Format link.Format // of Card: link.Stream or link.Datagram
	MAC    string      // of Card
	Root   string      // the directory that is the root, under memory for what is written
	Words  string      // what process 1 is told; it says so if there is no root
}

// Roles of the machine's processes: argv[0].
const (
	machineRole  = "hvtest-machine"
	process1Role = "hvtest-process-1"
)

// Greeting is what the machine's kernel prints on the console.
const Greeting = "the kernel says hello\n"

// PlayMachine is a process of a machine, and doesn't return, if that is what this
// process was started for. Call it first in TestMain.
func PlayMachine() {
	switch os.Args[0] {
	case machineRole:
		playKernel()
	case process1Role:
		playProcess1()
	}
}

// Command returns the command that is the machine.
func (m Machine) Command() *exec.Cmd {
	cmd := &exec.Cmd{
		Path:        "/proc/self/exe",
		Args:        []string{machineRole},
		Env:         []string{"MAC=" + m.MAC, "ROOT=" + m.Root, "WORDS=" + m.Words, "FRAMES=" + m.Format.String()},
		Stderr:      os.Stderr,
		SysProcAttr: &unix.SysProcAttr{Pdeathsig: unix.SIGKILL},
	}
	for _, f := range []*os.File{m.Agent, m.Status, m.Console, m.Card} {
		number := "-"
		if f != nil {
			cmd.ExtraFiles = append(cmd.ExtraFiles, f)
			number = strconv.Itoa(2 + len(cmd.ExtraFiles))
		}
		cmd.Args = append(cmd.Args, number)
	}
	return cmd
}

// playKernel runs process 1 in its namespaces and ends as it does. Its arguments are
// the numbers of the machine's descriptors, "-" for one that there isn't.
func playKernel() {
	runtime.LockOSThread() // for Pdeathsig
	cmd := &exec.Cmd{
		Path:   "/proc/self/exe",
		Args:   append([]string{process1Role}, os.Args[1:]...),
		Env:    os.Environ(),
		Stderr: os.Stderr,
		SysProcAttr: &unix.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
			Pdeathsig:   unix.SIGKILL,
		},
	}
	for _, arg := range os.Args[1:] {
		var f *os.File
		if fd, err := strconv.Atoi(arg); err == nil {
			f = os.NewFile(uintptr(fd), "given")
		}
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, machineRole+":", err)
		os.Exit(1)
	}
	os.Exit(cmd.ProcessState.ExitCode())
}

// Descriptors of process 1.
const (
	agentFD   = 3
	statusFD  = 4
	consoleFD = 5
	cardFD    = 6
)

// playProcess1 is package machine's Main without a machine.
func playProcess1() {
	status := os.NewFile(statusFD, "status")
	err := process1(status)
	code := 0
	if err != nil {
		code = guest.CodeRefused
		fmt.Fprintf(os.Stderr, "%s: %v\n", process1Role, err)
		fmt.Fprintf(status, "failed %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	fmt.Fprintf(status, "exit %d\n", code)
	os.Exit(0) // as a machine that resets itself does
}

func process1(status *os.File) error {
	if os.Getenv("ROOT") == "" {
		return fmt.Errorf("process 1 is told %s, and there is no root", os.Getenv("WORDS"))
	}
	if os.Args[3] != "-" {
		console := os.NewFile(consoleFD, "console")
		fmt.Fprint(console, Greeting)
		console.Close()
	}
	if os.Args[4] != "-" {
		if err := plugCard(); err != nil {
			return fmt.Errorf("plug the card in: %w", err)
		}
	}
	if err := enterRoot(os.Getenv("ROOT")); err != nil {
		return err
	}
	if err := guest.TuneKernel(); err != nil {
		return err
	}
	agent, err := net.FileConn(os.NewFile(agentFD, "agent"))
	if err != nil {
		return err
	}
	unix.Close(agentFD) // the connection has its own
	unix.CloseOnExec(statusFD)
	sys, err := guest.NewSystem(nil)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(status, "ready 1ms 2ms\n"); err != nil {
		return err
	}
	return guest.Serve(agent, sys)
}

// plugCard makes the guest's network device, a TAP, and carries its frames.
func plugCard() error {
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
	device, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	mac, err := net.ParseMAC(os.Getenv("MAC"))
	if err != nil {
		return err
	}
	if err := netlink.LinkSetHardwareAddr(device, mac); err != nil {
		return err
	}
	unix.CloseOnExec(cardFD)
	tap, card := os.NewFile(uintptr(tun), "tap"), os.NewFile(cardFD, "card")
	if os.Getenv("FRAMES") == link.Datagram.String() {
		go copyDatagrams(card, tap)
		go copyDatagrams(tap, card)
		return nil
	}
	go sendStream(card, tap)
	go receiveStream(tap, card)
	return nil
}

// copyDatagrams is one half of a driver: bare frames, one by each call.
func copyDatagrams(to io.Writer, from io.Reader) {
	buf := make([]byte, link.MaxFrame)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		_, _ = to.Write(buf[:n]) // refused while the device is down
	}
}

// sendStream is the half of a driver that sends: bare frames behind their lengths.
func sendStream(stream io.Writer, tap io.Reader) {
	buf := make([]byte, 4+link.MaxFrame)
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

// receiveStream is the half that receives.
func receiveStream(tap io.Writer, stream io.Reader) {
	buf := make([]byte, link.MaxFrame)
	for {
		if _, err := io.ReadFull(stream, buf[:4]); err != nil {
			return
		}
		n := binary.BigEndian.Uint32(buf)
		if _, err := io.ReadFull(stream, buf[:n]); err != nil {
			return
		}
		_, _ = tap.Write(buf[:n]) // refused while the device is down
	}
}

// enterRoot makes dir, with memory over it, the root.
func enterRoot(dir string) error {
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
