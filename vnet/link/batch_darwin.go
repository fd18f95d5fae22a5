package link

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batchMessage is struct msghdr_x of macOS: a message of sendmsg_x and recvmsg_x,
// which are its system calls for many at once. They are in no header, but in the
// kernel since 10.10, and what Apple's own network stack uses.
type batchMessage struct {
	name       *byte
	nameLen    uint32
	_          [4]byte
	iov        *unix.Iovec
	iovLen     int32
	_          [4]byte
	control    *byte
	controlLen uint32
	flags      int32
	dataLen    uint64 // what was received; not set by a send
}

// The kernel's is 56 bytes long (bsd/sys/socket_private.h), and so must ours be.
var _ [56]byte = [unsafe.Sizeof(batchMessage{})]byte{}

// Numbers of the system calls (bsd/kern/syscalls.master).
const (
	sysRecvmsgX = 480
	sysSendmsgX = 481
)

// set gives the message its memory. See batch_linux.go.
func (m *batchMessage) set(iov []unix.Iovec) {
	m.iov, m.iovLen = unsafe.SliceData(iov), int32(len(iov))
}

// received returns how many bytes came. See batch_linux.go.
func (m *batchMessage) received() int { return int(m.dataLen) }

// receiveBatch receives datagrams. See batch_linux.go.
func receiveBatch(fd uintptr, messages []batchMessage) (int, syscall.Errno) {
	for i := range messages {
		messages[i].flags, messages[i].dataLen = 0, 0
	}
	n, _, errno := syscall.Syscall6(sysRecvmsgX, fd, uintptr(unsafe.Pointer(unsafe.SliceData(messages))), uintptr(len(messages)), unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}

// sendBatch sends datagrams. See batch_linux.go.
func sendBatch(fd uintptr, messages []batchMessage) (int, syscall.Errno) {
	n, _, errno := syscall.Syscall6(sysSendmsgX, fd, uintptr(unsafe.Pointer(unsafe.SliceData(messages))), uintptr(len(messages)), unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}
