package machine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// deviceTimeout bounds the wait for a device that the host has promised. An
// emulated machine finds its devices within 200 ms of loading their drivers.
const deviceTimeout = 15 * time.Second

// A deviceWatch hears of the kernel's devices as they come. It is made before
// drivers are loaded, so that none can come unheard.
type deviceWatch struct {
	fd  int    // a socket of NETLINK_KOBJECT_UEVENT
	sys string // "/sys"
	dev string // "/dev"
}

// watchDevices returns a watch. The caller must Close it.
func watchDevices() (*deviceWatch, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("watch devices: %w", err)
	}
	// Group 1 are the kernel's own messages.
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watch devices: %w", err)
	}
	return &deviceWatch{fd: fd, sys: "/sys", dev: "/dev"}, nil
}

// Close ends the watch.
func (d *deviceWatch) Close() error { return unix.Close(d.fd) }

// find waits until the class of devices has one whose attribute is value, and
// returns the path of its node.
func (d *deviceWatch) find(class, attribute, value string) (string, error) {
	return d.await(class, value, func() string { return d.look(class, attribute, value) })
}

// named waits until the class of devices has one of that name, and returns the path
// of its node.
func (d *deviceWatch) named(class, name string) (string, error) {
	return d.await(class, name, func() string {
		if _, err := os.Stat(filepath.Join(d.sys, "class", class, name)); err != nil {
			return ""
		}
		return filepath.Join(d.dev, name)
	})
}

// await waits until look returns a path.
func (d *deviceWatch) await(class, what string, look func() string) (string, error) {
	deadline := time.Now().Add(deviceTimeout)
	for {
		if path := look(); path != "" {
			return path, nil
		}
		if err := d.wait(time.Until(deadline)); err != nil {
			return "", fmt.Errorf("wait for %s %q: %w", class, what, err)
		}
	}
}

// look returns the path of the node of a class's device whose attribute is value;
// "" if there is none now.
func (d *deviceWatch) look(class, attribute, value string) string {
	files, _ := filepath.Glob(filepath.Join(d.sys, "class", class, "*", attribute))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err == nil && strings.TrimSpace(string(text)) == value {
			return filepath.Join(d.dev, filepath.Base(filepath.Dir(file)))
		}
	}
	return ""
}

// wait waits for something to change among the devices. A port's name, which
// comes after the port, is not told of: so no wait is longer than a few
// milliseconds, and what it hears is only a reason to look earlier.
func (d *deviceWatch) wait(left time.Duration) error {
	if left <= 0 {
		return errNoDevice
	}
	const most = 5 * time.Millisecond
	fds := []unix.PollFd{{Fd: int32(d.fd), Events: unix.POLLIN}}
	if _, err := unix.Poll(fds, int(most.Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) {
		return err
	}
	// What is said doesn't matter; an overrun (ENOBUFS) is news as well.
	_, _, _ = unix.Recvfrom(d.fd, make([]byte, 8<<10), unix.MSG_DONTWAIT)
	return nil
}

// openHost opens a stream to the host: by vsock if s says so, else the console port
// of a name.
func openHost(s Setup, d *deviceWatch, name string) (*os.File, error) {
	if s.Vsock == 0 {
		return openPort(d, name)
	}
	port := s.Vsock
	if name == StatusPort {
		port++
	}
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open vsock: %w", err)
	}
	if err = unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_HOST, Port: port}); err == nil {
		err = unix.SetNonblock(fd, true) // so that a Close ends a Read
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("connect to port %d of the host by vsock: %w", port, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// openPort waits for the console port of a name and for the host at its other
// end, and opens it.
func openPort(d *deviceWatch, name string) (*os.File, error) {
	path, err := d.find("virtio-ports", "name", name)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	// Until the driver has heard of the host a read would be at its end.
	raw, err := f.SyscallConn()
	deadline := time.Now().Add(deviceTimeout)
	for connected := false; err == nil && !connected; {
		if e := raw.Control(func(fd uintptr) { connected, err = isConnected(int(fd)) }); e != nil {
			err = e
		}
		if err == nil && !connected {
			err = d.wait(time.Until(deadline))
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("wait for the host at port %s: %w", name, err)
	}
	return f, nil
}

// isConnected reports whether a port has a host at its other end.
func isConnected(fd int) (bool, error) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	_, err := unix.Poll(fds, 0)
	if errors.Is(err, unix.EINTR) {
		return false, nil
	}
	return fds[0].Revents&unix.POLLHUP == 0, err
}
