package link

import "golang.org/x/sys/unix"

const (
	// datagramBuffer is the send buffer of each end, in bytes; the kernel doubles
	// it. A frame of 1514 bytes is charged with 2.3 KiB, so this is 3600 of them.
	// libkrun loses a ring slot for good whenever its end is full, so it must
	// not be.
	datagramBuffer = 4 << 20
	// streamBuffer is the send buffer of each end, in bytes. It need only bridge
	// the time until the other process runs; what is longer waits in the
	// outbox, or in the guest.
	streamBuffer = 1 << 20
)

// setBuffers sets the buffers of one end. On Linux a unix socket's send buffer
// holds what the other end has not read; the receive buffer means nothing.
func setBuffers(fd int, format Format) error {
	size := streamBuffer
	if format == Datagram {
		size = datagramBuffer
	}
	// FORCE needs CAP_NET_ADMIN. Without it SO_SNDBUF cuts to net.core.wmem_max
	// and reports no error.
	return setBuffer(fd, size, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF)
}
