package krun

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/internal/seccomp"
)

// seal takes system calls from all threads of the machine's process, libkrun's too:
// what package seccomp refuses anyway, sockets, programs, and other processes'
// memory. What is open stays open, and that is all that a machine needs.
//
// Sockets, since they are what TSI is made of. A guest without TSI in its kernel may
// ask for it all the same: libkrun before 1.17 answers TSI's requests on every vsock
// that it has, card or no card, and root in the guest can write them
// (src/devices/src/virtio/vsock/muxer.rs, send_dgram_pkt). Each is answered by a
// socket of this process, to any address, and from 1.16 to any unix socket of the
// host: past sluice.
func seal() error {
	filter := seccomp.New(unix.SYS_SOCKET, unix.SYS_EXECVE, unix.SYS_EXECVEAT,
		unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PIDFD_GETFD)
	if err := filter.Install(); err != nil {
		return fmt.Errorf("seal the machine's process: %w", err)
	}
	return nil
}
