package link

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// guestArg is argv[0] of the process that plays the guest: a network namespace of
// its own with a TAP as its only card. A Go process never changes its namespace,
// so it is another one from its start.
const guestArg = "link-test-guest"

// startGuest starts a guest whose card has the given MTU and returns the link to
// it. The guest echoes TCP and UDP on guestPort. With MTU 0 the card stays down,
// with -1 it is deleted after a moment.
func startGuest(t testing.TB, mtu int) Link {
	t.Helper()
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip(err)
	}
	fds, err := socketpair(unix.SOCK_STREAM)
	must(t, err)
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	t.Cleanup(func() { ours.Close() })
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{guestArg, strconv.Itoa(mtu)}
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	must(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	theirs.Close()
	buf, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(ours.Fd()), buf, oob, unix.MSG_CMSG_CLOEXEC)
	must(t, err)
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	must(t, err)
	if len(messages) != 1 {
		t.Fatal("the guest passed no card")
	}
	fd, err := unix.ParseUnixRights(&messages[0])
	must(t, err)
	l, err := Open(os.NewFile(uintptr(fd[0]), "tap"), TAP)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	if mtu > 0 {
		awaitGuest(t, l)
	}
	return l
}

// awaitGuest returns when the guest has answered over IPv4 and IPv6: its kernel
// goes on setting up addresses for a while after it said that it had.
func awaitGuest(t testing.TB, l Link) {
	const probePort = 3999
	var wg sync.WaitGroup
	done := make(chan struct{})
	defer wg.Wait()
	defer close(done)
	wg.Go(func() {
		for {
			for _, v6 := range []bool{false, true} {
				write(t, l, segment{v6: v6, udp: true, srcPort: probePort, payload: []byte("?")}.frame(100))
			}
			select {
			case <-done:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	heard := map[bool]bool{} // by v6
	for len(heard) < 2 {
		for _, f := range read(t, l, 1) {
			if p, err := parseFrame(f.Data, false); err == nil && p.udp && p.dstPort == probePort {
				heard[p.v6] = true
			}
		}
	}
}

// guestMain is the guest. It ends when its parent does.
func guestMain() {
	if err := playGuest(); err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		os.Exit(1)
	}
}

func playGuest() error {
	mtu, err := strconv.Atoi(os.Args[1])
	if err != nil {
		return err
	}
	fd, err := makeTAP("eth0")
	if err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil { // package net asks it whether IPv6 works
		return err
	}
	card, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	if mtu <= 0 {
		if err := unix.Sendmsg(3, []byte{0}, unix.UnixRights(fd), nil, 0); err != nil {
			return err
		}
		if mtu < 0 {
			time.Sleep(50 * time.Millisecond) // a reader waits by now
			return netlink.LinkDel(card)
		}
		select {}
	}
	if err := netlink.LinkSetMTU(card, mtu); err != nil {
		return err
	}
	if err := netlink.LinkSetHardwareAddr(card, guestMAC[:]); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(card); err != nil {
		return err
	}
	for _, a := range []string{guestIP4.String() + "/24", guestIP6.String() + "/64"} {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			return err
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(card, addr); err != nil {
			return fmt.Errorf("add %s: %w", a, err)
		}
	}
	for _, ip := range []net.IP{ourAddr4.AsSlice(), ourAddr6.AsSlice()} {
		err := netlink.NeighSet(&netlink.Neigh{
			LinkIndex: card.Attrs().Index, State: netlink.NUD_PERMANENT, IP: ip, HardwareAddr: ourMAC[:],
		})
		if err != nil {
			return fmt.Errorf("add neighbour %s: %w", ip, err)
		}
	}
	tcp, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(int(guestPort))))
	if err != nil {
		return err
	}
	udp, err := net.ListenPacket("udp", net.JoinHostPort("", strconv.Itoa(int(guestPort))))
	if err != nil {
		return err
	}
	go echoDatagrams(udp)
	if err := unix.Sendmsg(3, []byte{0}, unix.UnixRights(fd), nil, 0); err != nil {
		return err
	}
	for {
		c, err := tcp.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			io.Copy(c, c)
		}()
	}
}

func echoDatagrams(c net.PacketConn) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		c.WriteTo(buf[:n], from)
	}
}

// makeTAP creates a TAP as hypervisors' backends do and returns its descriptor.
func makeTAP(name string) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return 0, fmt.Errorf("create tap: %w", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, TAPHeaderLen); err != nil {
		return 0, err
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, TAPOffloads); err != nil {
		err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, TAPOffloads&^TAPOffloadsUDP)
		if err != nil {
			return 0, err
		}
	}
	return fd, nil
}
