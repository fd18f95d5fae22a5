package qemu

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/sluicenet/sluice/internal/guest/machine"
)

// An invocation is a machine of QEMU's, as its command line says it. Descriptors
// are those that QEMU is started with.
type invocation struct {
	arch        string // amd64 or arm64
	accelerator string
	sandbox     bool // QEMU confines itself by seccomp, which only Linux has
	board       board
	name        string
	cpus        uint8
	memoryMiB   uint32
	kernel      int      // descriptor
	initrd      int      // descriptor; 0 if there is none
	words       []string // of the kernel's command line
	tscKHz      uint64   // of the processor's counter; 0 leaves it to the kernel to measure
	nic         *card    // nil: none
	disks       []drive
	agent       int // descriptor of the agent's stream
	status      int // descriptor of the status port
}

// A card is a network card.
type card struct {
	descriptor int
	mac        net.HardwareAddr
	mtu        int
}

// A drive is a disk.
type drive struct {
	descriptor int
	name       string // unique in the machine, and its serial number
	readOnly   bool
}

// A board is a kind of machine.
type board struct {
	machine string // the value of -machine
	bus     string // what the names of its virtio devices end in
	// virtualConsole reports that the console is virtio, since there is no serial
	// port.
	virtualConsole bool
}

// The boards. A microvm starts in half the time of a q35, since it has neither
// firmware worth the name nor PCI.
var (
	// Without ACPI the devices are on the command line, where libkrunfw's kernel
	// looks for them, and other kernels don't.
	microvmBare = board{machine: "microvm,acpi=off,usb=off,mem-merge=off,dump-guest-core=off", bus: "device", virtualConsole: true}
	microvm     = board{machine: "microvm,acpi=on,usb=off,mem-merge=off,dump-guest-core=off", bus: "device"}
	q35         = board{machine: "q35,usb=off,vmport=off,mem-merge=off,dump-guest-core=off", bus: "pci"}
	virt        = board{machine: "virt,gic-version=max,usb=off,mem-merge=off,dump-guest-core=off", bus: "pci"}
	virtBare    = board{machine: "virt,gic-version=max,usb=off,mem-merge=off,dump-guest-core=off", bus: "device", virtualConsole: true}
)

// busModule returns the module for the board's bus.
func (b board) busModule() string {
	if b.bus == "pci" {
		return "virtio_pci"
	}
	return "virtio_mmio"
}

// args returns QEMU's arguments.
func (i invocation) args() []string {
	args := []string{
		"-name", "guest=" + escape(i.name),
		"-machine", i.board.machine,
		"-accel", i.accelerator,
		"-cpu", i.processor(),
		"-smp", i.processors(),
		"-m", strconv.Itoa(int(i.memoryMiB)),
		// Nothing but what is named here: no configuration of the user's, no
		// default devices, no monitor, no window.
		"-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-parallel", "none",
		// A reset is the guest's way to end; see package machine.
		"-no-reboot",
		"-kernel", descriptorPath(i.kernel),
		"-append", strings.Join(i.words, " "),
	}
	if i.initrd != 0 {
		args = append(args, "-initrd", descriptorPath(i.initrd))
	}
	if i.sandbox {
		args = append(args, "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
	}
	args = append(args, i.serialArgs()...)
	for n, d := range i.disks {
		args = append(args, i.driveArgs(n, d)...)
	}
	return append(args, i.cardArgs()...)
}

// processor returns the value of -cpu.
func (i invocation) processor() string {
	switch {
	case i.accelerator != tcg:
		return "host"
	case i.arch == "amd64":
		// A kernel that is told that "rep movsb" is fast copies and clears memory
		// by it. The emulated one takes a step for each byte; without the promise
		// it is one for eight, and all that moves bytes is up to three times as fast.
		return "max,erms=off,fsrm=off"
	}
	return "max"
}

// processors returns the value of -smp.
func (i invocation) processors() string {
	if i.accelerator == tcg && i.cpus == 1 {
		// TCG leaves the barriers out of the code of a machine that can have one
		// processor only: as if nobody else saw its memory, when QEMU's devices do, in
		// another thread. A driver and a device that miss each other's last word both
		// wait for ever then: the card, or a disk, stands still.
		return "1,maxcpus=2"
	}
	return strconv.Itoa(int(i.cpus))
}

// serialArgs returns the console's and the ports'. The console is QEMU's standard
// output; signal=off keeps QEMU from making a terminal's keys its own.
func (i invocation) serialArgs() []string {
	args := []string{
		"-device", "virtio-serial-" + i.board.bus + ",id=ports,max_ports=4",
		"-chardev", "stdio,id=console,signal=off",
	}
	if i.board.virtualConsole {
		args = append(args, "-serial", "none", "-device", "virtconsole,bus=ports.0,nr=0,chardev=console")
	} else {
		args = append(args, "-serial", "chardev:console")
	}
	return append(args,
		"-chardev", fmt.Sprintf("socket,id=agent,fd=%d", i.agent),
		"-device", "virtserialport,bus=ports.0,nr=1,chardev=agent,name="+machine.AgentPort,
		"-chardev", fmt.Sprintf("socket,id=status,fd=%d", i.status),
		"-device", "virtserialport,bus=ports.0,nr=2,chardev=status,name="+machine.StatusPort,
	)
}

// driveArgs returns the nth disk's. QEMU takes a descriptor for a path if it is in
// a set of descriptors.
func (i invocation) driveArgs(n int, d drive) []string {
	options := "read-only=on"
	if !d.readOnly {
		options = "read-only=off,discard=unmap" // what the guest frees, the host gets back
	}
	below := "file." + strings.ReplaceAll(options, ",", ",file.")
	return []string{
		"-add-fd", fmt.Sprintf("fd=%d,set=%d", d.descriptor, n+1),
		"-blockdev", fmt.Sprintf("driver=raw,node-name=%s,%s,file.driver=file,file.filename=/dev/fdset/%d,%s", d.name, options, n+1, below),
		// Left to itself QEMU halts the machine when the host's disk is full, until
		// somebody says on the monitor to go on.
		"-device", fmt.Sprintf("virtio-blk-%s,drive=%s,serial=%[2]s,werror=report,rerror=report", i.board.bus, d.name),
	}
}

// cardArgs returns the network card's.
func (i invocation) cardArgs() []string {
	if i.nic == nil {
		return []string{"-nic", "none"}
	}
	device := fmt.Sprintf("virtio-net-%s,netdev=net,host_mtu=%d", i.board.bus, i.nic.mtu)
	if i.nic.mac != nil {
		device += ",mac=" + i.nic.mac.String()
	}
	if i.board.bus == "pci" {
		device += ",romfile=" // nothing boots from it
	}
	return []string{
		"-netdev", fmt.Sprintf("stream,id=net,server=off,addr.type=fd,addr.str=%d", i.nic.descriptor),
		"-device", device,
	}
}

// descriptorPath returns a path for a descriptor, where only a path will do.
func descriptorPath(n int) string { return fmt.Sprintf("/dev/fd/%d", n) }

// escape returns text as a value in a list of options: a comma is two.
func escape(text string) string { return strings.ReplaceAll(text, ",", ",,") }

// kernelWords returns the words that the kernel needs on this machine, beside
// those of the guest's setup.
func (i invocation) kernelWords() []string {
	var words []string
	switch {
	case i.board.virtualConsole:
		words = append(words, "console=hvc0")
	case i.arch == "arm64":
		words = append(words, "console=ttyAMA0")
	default:
		words = append(words, "console=ttyS0")
	}
	// A machine that fails resets itself, and so ends, at once.
	words = append(words, "quiet", "panic=-1")
	if i.arch == "amd64" {
		words = append(words, "reboot=t")
	}
	if i.accelerator == tcg {
		// The guest's defences against its own processor cost time, and the
		// emulated one has none of those faults; it is no secret where the kernel
		// is in a memory that QEMU's process holds.
		words = append(words, "mitigations=off", "nokaslr")
	}
	if i.tscKHz != 0 {
		// The emulated PIT, by which a kernel measures the counter, is late on a
		// busy host, and the kernel hangs then, or keeps a wrong time. The counter
		// is the host's and needs no watching by other clocks of the kind.
		words = append(words, "no_timer_check", "tsc=reliable", fmt.Sprintf("tsc_early_khz=%d", i.tscKHz))
	}
	return words
}
