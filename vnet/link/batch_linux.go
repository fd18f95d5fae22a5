package link

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batchMessage is a message of a system call for many datagrams. Each platform that
// has such calls has:
//
//	func (m *batchMessage) set(iov []unix.Iovec)  // gives the message its memory
//	func (m *batchMessage) received() int         // bytes, after receiveBatch
//
//	// receiveBatch receives as many datagrams as are there, up to the number of
//	// messages, without waiting: EAGAIN if there is none.
//	func receiveBatch(fd uintptr, messages []batchMessage) (int, syscall.Errno)
//
//	// sendBatch sends as many as there is room for, without waiting. An error is
//	// that of the first.
//	func sendBatch(fd uintptr, messages []batchMessage) (int, syscall.Errno)
//
// An errno that noBatches knows means that the calls are not to be had.
type batchMessage unix.Mmsghdr

func (m *batchMessage) set(iov []unix.Iovec) {
	m.Hdr.Iov = unsafe.SliceData(iov)
	m.Hdr.SetIovlen(len(iov))
}

func (m *batchMessage) received() int { return int(m.Len) }

func receiveBatch(fd uintptr, messages []batchMessage) (int, syscall.Errno) {
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(unsafe.SliceData(messages))), uintptr(len(messages)), unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}

func sendBatch(fd uintptr, messages []batchMessage) (int, syscall.Errno) {
	n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(unsafe.SliceData(messages))), uintptr(len(messages)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	return int(n), errno
}
