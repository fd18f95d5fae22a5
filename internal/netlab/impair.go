package netlab

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
)

// An Impairment says what a bad wire does, in each direction, to a share of the
// frames between 0 and 1.
type Impairment struct {
	Loss      float64 // vanish
	Duplicate float64 // come twice
	Reorder   float64 // come behind the next one
	Seed      uint64  // of the dice: the same seed, the same throws
}

// Impair puts a bad wire between the router and the host, for the rest of the host's
// time: the wire is a goroutine here, since a kernel may lack netem. Connections
// that exist live on. What the watch saw may still be lost behind it.
func (h *Host) Impair(how Impairment) {
	h.t.Helper()
	if err := h.lab.impair(h, how); err != nil {
		h.t.Fatal(err)
	}
}

// impair replaces the host's veth pair by two, with the wire between them in a
// namespace of its own.
func (l *Lab) impair(h *Host, how Impairment) error {
	wire := h.namespace + "w"
	near, far := fmt.Sprintf("r%d", h.number), "eth0"
	if err := ip("", "", "netns add "+wire); err != nil {
		return err
	}
	// Earlier, it would take away the link that the host's own end takes away.
	h.onCloseLast(func() error { return ip("", "", "netns del "+wire) })
	if err := ip(h.last.up, "", "link del "+near); err != nil {
		return err
	}
	if err := ip("", "",
		fmt.Sprintf("link add %s netns %s type veth peer name near netns %s", near, h.last.up, wire),
		fmt.Sprintf("link add %s netns %s type veth peer name far netns %s", far, h.namespace, wire),
	); err != nil {
		return err
	}
	if err := ip(wire, "", "link set near up addrgenmode none", "link set far up addrgenmode none"); err != nil {
		return err
	}
	if err := h.last.configure(near); err != nil {
		return err
	}
	// One loss must be one segment, not forty.
	for namespace, iface := range map[string]string{h.last.up: near, h.namespace: far} {
		if err := ip(namespace, "", "link set "+iface+" gso_max_segs 1"); err != nil {
			return err
		}
	}
	return l.startWire(h, wire, how)
}

// startWire carries frames between the two ends of a wire until the host is closed.
func (l *Lab) startWire(h *Host, namespace string, how Impairment) error {
	var ends [2]*os.File
	for i, iface := range []string{"near", "far"} {
		f, err := l.agent.do(h.t.Context(), request{Op: "wire", Namespace: namespace, Address: iface})
		if err != nil {
			return err
		}
		h.onClose(f.Close)
		ends[i] = f
	}
	for i := range ends {
		w := bad{how: how, dice: rand.New(rand.NewPCG(how.Seed, uint64(i)))}
		h.wg.Go(func() { w.carry(ends[i], ends[1-i]) })
	}
	return nil
}

// bad is one direction of a bad wire.
type bad struct {
	how  Impairment
	dice *rand.Rand
	held []byte // a frame that waits for the next one; nil if none
}

// wireFrame bounds a frame with its virtio-net header.
const wireFrame = 64<<10 + 64

// carry carries frames until from is closed.
func (w *bad) carry(from, to *os.File) {
	buf := make([]byte, wireFrame)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		for _, frame := range w.pass(buf[:n]) {
			to.Write(frame) // an error is a frame that the other end has no room for
		}
	}
}

// pass returns the frames that leave when one comes, in order. They are valid until
// the next call.
func (w *bad) pass(frame []byte) [][]byte {
	if w.dice.Float64() < w.how.Loss {
		return nil
	}
	if w.held == nil && w.dice.Float64() < w.how.Reorder {
		w.held = slices.Clone(frame)
		return nil
	}
	out := [][]byte{frame}
	if w.dice.Float64() < w.how.Duplicate {
		out = append(out, frame)
	}
	if w.held != nil {
		out = append(out, w.held)
		w.held = nil
	}
	return out
}
