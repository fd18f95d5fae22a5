package namespace

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/vnet/link"
)

// cardName is what the guest calls its card.
const cardName = "eth0"

// tapQueue is the TAP's queue towards the host in frames. The kernel's default
// of 1000 drops under a burst of small frames before the host gets a turn.
const tapQueue = 10000

// tunDevice opens the clone device of TAPs. It belongs to the network
// namespace of the thread that opens it. It is done before the guest's
// root is anyone but the caller, since distributions that keep the device for
// root alone keep it from the guest's.
func tunDevice(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// makeTAP makes tun the TAP of the guest's card: frames behind the 12-byte
// virtio-net header, segmentation and checksums left to the other end.
func makeTAP(tun *os.File, mac net.HardwareAddr, mtu int) error {
	raw, err := tun.SyscallConn()
	if err != nil {
		return err
	}
	var attachErr error
	if err := raw.Control(func(fd uintptr) { attachErr = attachTAP(int(fd)) }); err != nil {
		return err
	}
	if attachErr != nil {
		return attachErr
	}
	card, err := netlink.LinkByName(cardName)
	if err != nil {
		return fmt.Errorf("find %s: %w", cardName, err)
	}
	// By netlink, which the filter leaves open, and not by more ioctls: the
	// agent sets the rest of the card the same way.
	if len(mac) > 0 {
		if err := netlink.LinkSetHardwareAddr(card, mac); err != nil {
			return fmt.Errorf("set address %s of %s: %w", mac, cardName, err)
		}
	}
	if err := netlink.LinkSetMTU(card, mtu); err != nil {
		return fmt.Errorf("set MTU %d of %s: %w", mtu, cardName, err)
	}
	if err := netlink.LinkSetTxQLen(card, tapQueue); err != nil {
		return fmt.Errorf("set queue of %s: %w", cardName, err)
	}
	return nil
}

// attachTAP creates the TAP on the open clone device fd.
func attachTAP(fd int) error {
	ifr, err := unix.NewIfreq(cardName)
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return fmt.Errorf("create TAP: %w", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, link.TAPHeaderLen); err != nil {
		return fmt.Errorf("set TAP header: %w", err)
	}
	err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, link.TAPOffloads)
	if errors.Is(err, unix.EINVAL) { // UDP segmentation came with Linux 6.2
		err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, link.TAPOffloads&^link.TAPOffloadsUDP)
	}
	if err != nil {
		return fmt.Errorf("set TAP offloads: %w", err)
	}
	return nil
}
