package krun

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// sealed are the system calls that fail in a machine's process once seal was called.
//
// A guest without TSI in its kernel still may ask for it: libkrun before 1.17 answers
// TSI's requests on every vsock that it has, card or no card, and root in the guest
// can write them (src/devices/src/virtio/vsock/muxer.rs, send_dgram_pkt). Each is
// answered by a socket of this process, to any address, and from 1.16 to any unix
// socket of the host: all of them past sluice. So there are no more sockets. Nor has
// a machine a use for programs, or for other processes' memory.
var sealed = []uint32{
	unix.SYS_SOCKET, unix.SYS_IO_URING_SETUP, // whose rings make sockets too
	unix.SYS_EXECVE, unix.SYS_EXECVEAT,
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV,
}

// architectures are what the kernel calls the processors that seal knows, by GOARCH.
var architectures = map[string]uint32{
	"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64, "riscv64": unix.AUDIT_ARCH_RISCV64,
}

// Places in what a filter sees, struct seccomp_data of linux/seccomp.h.
const (
	numberAt = 0
	archAt   = 4
)

// x32 is set in the numbers of amd64's second set of system calls, which a filter by
// number must not overlook.
const x32 = 0x40000000

// seal takes the system calls from all threads of the process, libkrun's too. What
// is open stays open. The process must not be able to get new privileges.
func seal() error {
	filter, err := sealFilter(runtime.GOARCH)
	if err != nil {
		return err
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	switch {
	case errno != 0:
		return fmt.Errorf("seal the machine's process by seccomp: %w", errno)
	case thread != 0:
		return fmt.Errorf("seal the machine's process by seccomp: thread %d has a filter of its own", thread)
	}
	return nil
}

// sealFilter returns the program that the kernel runs at each system call.
func sealFilter(arch string) ([]unix.SockFilter, error) {
	own, ok := architectures[arch]
	if !ok {
		return nil, fmt.Errorf("seal the machine's process on %s: %w", arch, errors.ErrUnsupported)
	}
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: archAt, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: own, SkipTrue: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_PROCESS}, // a 32-bit call: its numbers are others
		bpf.LoadAbsolute{Off: numberAt, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: x32, SkipTrue: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
	}
	for _, number := range sealed {
		program = append(program,
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: number, SkipFalse: 1},
			bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)})
	}
	raw, err := bpf.Assemble(append(program, bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}))
	if err != nil {
		return nil, err
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return filter, nil
}
