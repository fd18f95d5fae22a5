package qemu

import (
	"net"
	"slices"
	"strings"
	"testing"
)

// plain is a machine with as little as there can be.
func plain() invocation {
	return invocation{arch: "amd64", accelerator: kvm, board: microvm, name: "box", cpus: 1, memoryMiB: 256, kernel: 5, agent: 3, status: 4}
}

// The command line of a whole machine, argument by argument.
func TestArgs(t *testing.T) {
	t.Parallel()
	i := plain()
	i.accelerator, i.sandbox, i.name, i.initrd = tcg, true, "a,b", 6
	i.words = []string{"quiet", "panic=-1"}
	i.nic = &card{descriptor: 7, mac: net.HardwareAddr{2, 0, 0, 0, 0, 9}, mtu: 65520}
	i.disks = []drive{{descriptor: 8, name: "root", readOnly: true}, {descriptor: 9, name: "upper"}}
	want := []string{
		"-name guest=a,,b",
		"-machine microvm,acpi=on,usb=off,mem-merge=off,dump-guest-core=off",
		"-accel tcg", "-cpu max,erms=off,fsrm=off", "-smp 1,maxcpus=2", "-m 256",
		"-nodefaults -no-user-config -display none -monitor none -parallel none -no-reboot",
		"-kernel /dev/fd/5", "-append quiet panic=-1", "-initrd /dev/fd/6",
		"-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-device virtio-serial-device,id=ports,max_ports=4",
		"-chardev stdio,id=console,signal=off -serial chardev:console",
		"-chardev socket,id=agent,fd=3 -device virtserialport,bus=ports.0,nr=1,chardev=agent,name=sluice.agent",
		"-chardev socket,id=status,fd=4 -device virtserialport,bus=ports.0,nr=2,chardev=status,name=sluice.status",
		"-add-fd fd=8,set=1",
		"-blockdev driver=raw,node-name=root,read-only=on,file.driver=file,file.filename=/dev/fdset/1,file.read-only=on",
		"-device virtio-blk-device,drive=root,serial=root,werror=report,rerror=report",
		"-add-fd fd=9,set=2",
		"-blockdev driver=raw,node-name=upper,read-only=off,discard=unmap,file.driver=file,file.filename=/dev/fdset/2,file.read-only=off,file.discard=unmap",
		"-device virtio-blk-device,drive=upper,serial=upper,werror=report,rerror=report",
		"-netdev stream,id=net,server=off,addr.type=fd,addr.str=7",
		"-device virtio-net-device,netdev=net,host_mtu=65520,mac=02:00:00:00:00:09",
	}
	if got := strings.Join(i.args(), " "); got != strings.Join(want, " ") {
		t.Errorf("args:\n%s\nwant:\n%s", got, strings.Join(want, " "))
	}
}

// What differs between machines.
func TestArgsVary(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		change func(*invocation)
		has    []string
		hasNot []string
	}{
		{"a processor of the host's", func(*invocation) {}, []string{"-smp 1 -m"}, nil},
		{"two emulated processors", func(i *invocation) { i.accelerator, i.cpus = tcg, 2 }, []string{"-smp 2 -m"}, nil},
		{"no card", func(*invocation) {}, []string{"-nic none"}, []string{"netdev", "virtio-net"}},
		{"no initramfs", func(*invocation) {}, nil, []string{"-initrd"}},
		{"no seccomp", func(*invocation) {}, nil, []string{"-sandbox"}},
		{"the host's processor", func(*invocation) {}, []string{"-cpu host", "-accel kvm"}, nil},
		{"PCI", func(i *invocation) { i.board, i.nic = q35, &card{descriptor: 9, mtu: 1500} },
			[]string{"virtio-serial-pci", "virtio-net-pci", "host_mtu=1500,romfile="}, []string{"-device,", "mac="}},
		{"virtual console", func(i *invocation) { i.board = microvmBare },
			[]string{"acpi=off", "-serial none -device virtconsole,bus=ports.0,nr=0,chardev=console"}, []string{"chardev:console"}},
		{"arm64", func(i *invocation) { i.arch, i.board, i.accelerator = "arm64", virt, hvf },
			[]string{"-machine virt,gic-version=max", "-cpu host", "-accel hvf"}, nil},
		{"arm64, emulated", func(i *invocation) { i.arch, i.board, i.accelerator = "arm64", virt, tcg },
			[]string{"-cpu max -smp 1,maxcpus=2 -m"}, []string{"erms"}},
	} {
		i := plain()
		row.change(&i)
		got := strings.Join(i.args(), " ")
		for _, want := range row.has {
			if !strings.Contains(got, want) {
				t.Errorf("%s: %q is not in %s", row.name, want, got)
			}
		}
		for _, not := range row.hasNot {
			if strings.Contains(got, not) {
				t.Errorf("%s: %q is in %s", row.name, not, got)
			}
		}
	}
}

// No machine has what its owner didn't ask for, or a path of the host's.
func TestArgsAlways(t *testing.T) {
	t.Parallel()
	for _, b := range []board{microvmBare, microvm, q35, virt, virtBare} {
		for _, accelerator := range []string{kvm, hvf, tcg} {
			i := plain()
			i.board, i.accelerator = b, accelerator
			args := i.args()
			for _, want := range []string{"-nodefaults", "-no-user-config", "-no-reboot"} {
				if !slices.Contains(args, want) {
					t.Errorf("%s: no %s", b.machine, want)
				}
			}
			for _, arg := range args {
				if strings.Contains(arg, "user,") || strings.HasPrefix(arg, "-qmp") || strings.HasPrefix(arg, "-hda") || strings.Contains(arg, "hostfwd") {
					t.Errorf("%s has %q", b.machine, arg)
				}
				if strings.HasPrefix(arg, "/") && !strings.HasPrefix(arg, "/dev/fd/") {
					t.Errorf("%s names the path %q", b.machine, arg)
				}
			}
		}
	}
}

func TestKernelWords(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		arch, accelerator string
		board             board
		tscKHz            uint64
		want              string
	}{
		{"amd64", kvm, microvm, 0, "console=ttyS0 quiet panic=-1 reboot=t"},
		{"amd64", tcg, microvm, 2600000, "console=ttyS0 quiet panic=-1 reboot=t mitigations=off nokaslr no_timer_check tsc=reliable tsc_early_khz=2600000"},
		{"amd64", tcg, q35, 0, "console=ttyS0 quiet panic=-1 reboot=t mitigations=off nokaslr"},
		{"amd64", kvm, microvmBare, 0, "console=hvc0 quiet panic=-1 reboot=t"},
		{"arm64", hvf, virt, 0, "console=ttyAMA0 quiet panic=-1"},
		{"arm64", tcg, virtBare, 0, "console=hvc0 quiet panic=-1 mitigations=off nokaslr"},
	} {
		i := invocation{arch: row.arch, accelerator: row.accelerator, board: row.board, tscKHz: row.tscKHz}
		if got := strings.Join(i.kernelWords(), " "); got != row.want {
			t.Errorf("%s, %s, %s: %q; want %q", row.arch, row.accelerator, row.board.machine, got, row.want)
		}
	}
}
