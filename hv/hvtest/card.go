package hvtest

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/internal/guest"
	"github.com/sluicenet/sluice/vnet/link"
)

// The card carries both families both ways: the guest's kernel answers who asks for
// its addresses, from a card with the MTU that was asked for.
func testFamilies(t *testing.T, h hv.Hypervisor) {
	if _, fake := h.(*Fake); fake {
		return // no kernel
	}
	mac := net.HardwareAddr{0x02, 0x53, 0x4c, 0x00, 0x00, 0x08}
	config := network()
	vm, _ := boot(t, h, hv.Config{NIC: &hv.NIC{MAC: mac}}, &config)
	file, format := vm.NIC()
	l, err := link.Open(file, format)
	if err != nil {
		t.Fatal(err)
	}
	stop := time.AfterFunc(patience, func() { l.Close() })
	defer stop.Stop()
	defer l.Close()
	ours := net.HardwareAddr{0x02, 0, 0, 0, 0, 1}
	gateway4, gateway6 := config.Gateways[0], config.Gateways[1]
	guest4, guest6 := config.Addrs[0].Addr(), config.Addrs[1].Addr()
	for _, row := range []struct {
		name   string
		ask    []byte
		offset int // of the answer's answer
		answer []byte
	}{
		// RFC 826: EtherType, Ethernet, IPv4, lengths, reply, who is there.
		{"IPv4", arpRequest(ours, gateway4, guest4), 12, slices.Concat([]byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 2}, mac, guest4.AsSlice())},
		// RFC 4861, section 4.4: the target, behind type, code, checksum and flags.
		{"IPv6", solicitation(ours, gateway6, guest6), 62, guest6.AsSlice()},
	} {
		quiet := repeat(l, row.ask)
		for { // it says other things too
			frames := []link.Frame{{Data: make([]byte, 0, link.MaxFrame)}}
			if _, err := l.ReadFrames(frames); err != nil {
				t.Fatalf("%s: no answer: %v", row.name, err)
			}
			f := frames[0].Data
			solicited := row.offset == 12 || len(f) > 58 && f[54] == neighbourAdvertisement
			if bytes.Equal(f[:6], ours) && solicited && bytes.HasPrefix(f[row.offset:], row.answer) {
				break
			}
		}
		quiet()
	}
}

// repeat sends a frame again and again until the returned function is called: an
// address that is new to the guest answers when it has found out that nobody else has
// it (RFC 4862, section 5.4).
func repeat(l link.Link, frame []byte) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(50 * time.Millisecond)
		defer ticker.Stop()
		for {
			if _, err := l.WriteFrames([]link.Frame{{Data: frame}}); err != nil {
				return
			}
			select {
			case <-quit:
				return
			case <-ticker.C:
			}
		}
	}()
	return func() { close(quit); <-done }
}

// ICMPv6 types: RFC 4861, sections 4.3 and 4.4.
const (
	neighbourSolicitation  = 135
	neighbourAdvertisement = 136
)

// arpRequest returns the frame that asks for an IPv4 address: RFC 826.
func arpRequest(from net.HardwareAddr, sender, target netip.Addr) []byte {
	all := bytes.Repeat([]byte{0xff}, 6)
	return slices.Concat(all, from, []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 1}, from, sender.AsSlice(), make([]byte, 6), target.AsSlice(), make([]byte, 18))
}

// solicitation returns the frame that asks for an IPv6 address: RFC 4861, section
// 4.3, to the address's solicited-node group.
func solicitation(from net.HardwareAddr, sender, target netip.Addr) []byte {
	t := target.As16()
	group := slices.Concat([]byte{0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff}, t[13:])
	message := slices.Concat([]byte{neighbourSolicitation, 0, 0, 0, 0, 0, 0, 0}, t[:], []byte{1, 1}, from)
	const icmpv6 = 58
	pseudo := slices.Concat(sender.AsSlice(), group, []byte{0, 0, 0, byte(len(message)), 0, 0, 0, icmpv6})
	binary.BigEndian.PutUint16(message[2:], ^link.Sum(message, link.Sum(pseudo, 0)))
	ip := []byte{0x60, 0, 0, 0, 0, byte(len(message)), icmpv6, 255}
	return slices.Concat([]byte{0x33, 0x33}, group[12:], from, []byte{0x86, 0xdd}, ip, sender.AsSlice(), group, message)
}

// A console's writer may fail without harm to the guest, and gets nothing once Wait
// has returned. The size that a guest is given is one that it boots with.
func testConsole(t *testing.T, h hv.Hypervisor) {
	w := new(failing)
	vm, client := boot(t, h, hv.Config{Console: w, CPUs: 1, MemoryMiB: 256}, nil)
	if exit, err := run(t, client, guest.Command{Args: []string{"true"}}); err != nil || exit.Code != 0 {
		t.Errorf("true = %+v, %v", exit, err)
	}
	vm.Kill()
	wait(t, vm)
	w.end()
	vm.Close()
	if n := w.late(); n != 0 {
		t.Errorf("the console was written to %d times after the guest's end", n)
	}
}

// A failing writer refuses what it is given, and counts what comes too late.
type failing struct {
	mu    sync.Mutex // guards the following fields
	ended bool
	after int
}

func (f *failing) Write([]byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		f.after++
	}
	return 0, os.ErrClosed
}

// end says that nothing is to be written from now on.
func (f *failing) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
}

// late returns how often something was.
func (f *failing) late() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.after
}
