package link

import "golang.org/x/sys/unix"

// Socket buffers in bytes. On macOS the receive buffer holds what was not read;
// kern.ipc.maxsockbuf, 8 MiB, bounds it. For datagrams the send buffer is no
// buffer, but the largest datagram.
const (
	receiveBuffer = 4 << 20
	streamBuffer  = 1 << 20
	datagramSend  = 2 * minBuffer // above MaxFrame
)

// setBuffers sets the buffers of one end.
func setBuffers(fd int, format Format) error {
	send := streamBuffer
	if format == Datagram {
		send = datagramSend
	}
	if err := setBuffer(fd, send, unix.SO_SNDBUF); err != nil {
		return err
	}
	return setBuffer(fd, receiveBuffer, unix.SO_RCVBUF)
}
