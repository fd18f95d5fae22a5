//go:build unix

package qemu

import (
	"cmp"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/hv/internal/ends"
	"github.com/sluicenet/sluice/internal/guest/kernel"
	"github.com/sluicenet/sluice/internal/guest/machine"
	"github.com/sluicenet/sluice/vnet/link"
)

// launch starts the supervisor, and by it QEMU.
func (h *Hypervisor) launch(p plan, accelerator string) (*vm, error) {
	var l launcher
	v, err := l.launch(h, p, accelerator)
	// QEMU's ends must be QEMU's alone, or its end would not show.
	for _, f := range l.guests {
		f.Close()
	}
	if err != nil {
		for _, f := range l.ours {
			f.Close()
		}
	}
	return v, err
}

// A launcher collects what a launch opens.
type launcher struct {
	guests []*os.File // QEMU's, from descriptor 3 on, then the supervisor's output
	ours   []interface{ Close() error }
}

// pass makes f one of QEMU's files and returns its number there.
func (l *launcher) pass(f *os.File) int {
	l.guests = append(l.guests, f)
	return 2 + len(l.guests)
}

// launch does it.
func (l *launcher) launch(h *Hypervisor, p plan, accelerator string) (*vm, error) {
	i := invocation{
		arch: h.cfg.Arch, accelerator: accelerator, sandbox: confinesItself, board: h.chooseBoard(p.kernel, accelerator),
		name: p.cfg.Name, cpus: p.cfg.CPUs, memoryMiB: p.cfg.MemoryMiB,
	}
	v := &vm{changed: make(chan struct{}, 1), End: ends.NewEnd()}
	agent, n, err := l.stream()
	if err != nil {
		return nil, err
	}
	v.PutAgent(agent)
	i.agent = n
	s := streams{also: p.cfg.Console}
	if s.status, i.status, err = l.stream(); err != nil {
		return nil, err
	}
	if p.cfg.NIC != nil {
		nic, guests, err := link.Pair(link.Stream)
		if err != nil {
			return nil, err
		}
		v.PutNIC(nic, link.Stream)
		l.ours = append(l.ours, nic)
		i.nic = &card{descriptor: l.pass(guests), mac: p.cfg.NIC.MAC, mtu: int(cmp.Or(p.cfg.NIC.MTU, 1500))}
	}
	if err := l.openBoot(&i, p); err != nil {
		return nil, err
	}
	if err := l.openDisks(&i, p.cfg.Disks); err != nil {
		return nil, err
	}
	if accelerator == tcg && i.arch == "amd64" {
		i.tscKHz = tscFrequencyKHz(p.begun)
	}
	i.words = append(append(i.words, i.kernelWords()...), p.setup.Words()...)
	return l.execute(v, s, p.program, i)
}

// chooseBoard returns the board for a kernel.
func (h *Hypervisor) chooseBoard(k kernel.Kernel, accelerator string) board {
	switch {
	case h.cfg.board != nil:
		return *h.cfg.board
	case h.cfg.Arch == "arm64" && k.Bundled:
		return virtBare
	case h.cfg.Arch == "arm64":
		return virt
	case k.Bundled:
		return microvmBare
	case k.Has(microvm.busModule()) && (accelerator != tcg || runtime.GOARCH == "amd64"):
		return microvm
	}
	// It has PCI, and the clocks that a kernel can measure a foreign host's
	// counter by.
	return q35
}

// stream returns our end of a new stream to the guest, and the number of its own.
func (l *launcher) stream() (net.Conn, int, error) {
	ours, guests, err := link.Pair(link.Stream)
	if err != nil {
		return nil, 0, err
	}
	n := l.pass(guests)
	defer ours.Close() // FileConn has its own
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, 0, err
	}
	l.ours = append(l.ours, conn)
	return conn, n, nil
}

// openBoot opens the kernel and what it starts from.
func (l *launcher) openBoot(i *invocation, p plan) error {
	image, err := p.kernel.Open()
	if err != nil {
		return err
	}
	i.kernel = l.pass(image)
	if p.cfg.Initrd != "" {
		initrd, err := os.Open(p.cfg.Initrd)
		if err != nil {
			return err
		}
		i.initrd = l.pass(initrd)
		return nil
	}
	if p.kernel.Bundled {
		disk, err := p.kernel.BootDisk(p.agent, machine.Role, machine.BootDirs()...)
		if err != nil {
			return err
		}
		i.disks = append(i.disks, drive{descriptor: l.pass(disk), name: "boot", readOnly: true})
		i.words = append(i.words, "root=/dev/vda", "ro", "rootfstype=ext4", "init="+machine.Role)
		return nil
	}
	needed, helpful := p.setup.Modules()
	initramfs, err := p.kernel.Initramfs(p.agent, machine.Role, machine.ModulesDir, append(needed, i.board.busModule()), helpful)
	if err != nil {
		return err
	}
	i.initrd = l.pass(initramfs)
	i.words = append(i.words, "rdinit="+machine.Role)
	return nil
}

// openDisks opens the guest's disks.
func (l *launcher) openDisks(i *invocation, disks []hv.Disk) error {
	for n, d := range disks {
		flags, name := os.O_RDONLY, fmt.Sprintf("disk%d", n)
		if !d.ReadOnly {
			flags = os.O_RDWR
		}
		switch n {
		case 0:
			name = machine.RootDisk
		case 1:
			name = machine.UpperDisk
		}
		f, err := os.OpenFile(d.Path, flags, 0)
		if err != nil {
			return fmt.Errorf("open the guest's disk: %w", err)
		}
		i.disks = append(i.disks, drive{descriptor: l.pass(f), name: name, readOnly: d.ReadOnly})
	}
	return nil
}

// execute starts the supervisor with all that was opened.
func (l *launcher) execute(v *vm, s streams, program string, i invocation) (*vm, error) {
	files := len(l.guests)
	path, err := executable()
	if err != nil {
		return nil, err
	}
	ours, theirs, err := link.Pair(link.Stream)
	if err != nil {
		return nil, err
	}
	l.pass(theirs)
	v.lifeline, err = net.FileConn(ours)
	ours.Close()
	if err != nil {
		return nil, err
	}
	l.ours = append(l.ours, v.lifeline)
	console, out, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	l.pass(out)
	l.ours = append(l.ours, console)
	words, errs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	l.pass(errs)
	l.ours = append(l.ours, words)
	s.console, s.words = console, words
	v.cmd = &exec.Cmd{
		Path: path, Args: append([]string{Role, strconv.Itoa(files), program}, i.args()...),
		Env: []string{}, // the host's has secrets
		Dir: "/", Stdout: out, Stderr: errs, SysProcAttr: inOwnSession(),
		ExtraFiles: append([]*os.File{theirs}, l.guests[:files]...),
	}
	started := make(chan error, 1)
	go v.run(s, started)
	if err := <-started; err != nil {
		<-v.Done()
		return nil, fmt.Errorf("execute the supervisor: %w", err)
	}
	return v, nil
}
