package netlab

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// captureBuffer holds what arrives between two turns of the capture's goroutine,
// in bytes of kernel memory: a burst of 1000 full segments.
const captureBuffer = 64 << 20

// wireSocket is packetSocket for one end of a bad wire, which also writes: frames
// have a virtio-net header in front, so that checksums and segments that the kernel
// hasn't made yet stay unmade.
func wireSocket(iface string) (*os.File, error) {
	f, err := packetSocket(iface)
	if err != nil {
		return nil, err
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	var optErr error
	err = conn.Control(func(fd uintptr) {
		optErr = unix.SetsockoptInt(int(fd), unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1)
	})
	if err = errors.Join(err, os.NewSyscallError("setsockopt", optErr)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// packetSocket opens a socket, in the thread's namespace, that reads a copy of
// every frame that arrives on an interface.
func packetSocket(iface string) (*os.File, error) {
	i, err := net.InterfaceByName(iface)
	if err != nil {
		return nil, err
	}
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // network byte order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "capture "+iface)
	// A user namespace's root may not exceed the system's maximum.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer) != nil {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, captureBuffer)
	}
	err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index})
	}
	if err != nil {
		f.Close()
		return nil, os.NewSyscallError("capture on "+iface, err)
	}
	return f, nil
}

// captureLost returns how many packets a capture's socket had no room for since
// the last call.
func captureLost(f *os.File) (int, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var stats *unix.TpacketStats
	var optErr error
	err = conn.Control(func(fd uintptr) {
		stats, optErr = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
	})
	if err = errors.Join(err, optErr); err != nil {
		return 0, fmt.Errorf("read the capture's statistics: %w", err)
	}
	return int(stats.Drops), nil
}
