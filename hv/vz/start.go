package vz

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/hv/internal/ends"
	"github.com/sluicenet/sluice/internal/guest/machine"
	"github.com/sluicenet/sluice/vnet/link"
)

// bootTimeout bounds the time from the start of a machine until its agent serves.
// That takes a second, and three on a laptop that wakes up.
const bootTimeout = 30 * time.Second

// Start starts a guest and waits until its agent serves. See hv.Hypervisor.
func (h *Hypervisor) Start(ctx context.Context, cfg hv.Config) (hv.VM, error) {
	v, err := h.start(ctx, cfg, virtualMachine.start)
	if err != nil {
		return nil, fmt.Errorf("start vz guest: %w", err)
	}
	if err := v.awaitReady(ctx); err != nil {
		v.Close()
		return nil, fmt.Errorf("start vz guest: %w", err)
	}
	return v, nil
}

// Restore starts a guest from a file that Saver.Save wrote, with the Config that it
// had then. Its agent is in the middle of the connection that was saved, of which
// the host's end is gone: it ends that and waits for no other, so a restored guest
// is good for what runs in it, and not for new commands.
func (h *Hypervisor) Restore(ctx context.Context, cfg hv.Config, path string) (hv.VM, error) {
	v, err := h.start(ctx, cfg, func(m virtualMachine) error {
		k, ok := m.(keeper)
		if !ok {
			return errNotKept
		}
		if err := k.restore(path); err != nil {
			return fmt.Errorf("read %q: %w", path, err)
		}
		return m.resume()
	})
	if err != nil {
		return nil, fmt.Errorf("restore vz guest: %w", err)
	}
	return v, nil
}

// errNotKept is why a machine's state isn't kept on a Mac with Intel's processor.
var errNotKept = fmt.Errorf("the state of machines is kept on Apple silicon with macOS 14 only: %w", errors.ErrUnsupported)

// start makes a machine and sets it going by begin.
func (h *Hypervisor) start(ctx context.Context, cfg hv.Config, begin func(virtualMachine) error) (*vm, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l, err := h.framework.limits()
	if err != nil {
		return nil, err
	}
	p, err := newPlan(cfg, l)
	if err != nil {
		return nil, err
	}
	v := &vm{
		End: ends.NewEnd(), log: cfg.Logger, begun: make(chan error, 1), asks: make(chan request),
		killed: make(chan struct{}), ready: make(chan struct{}),
	}
	if v.log == nil {
		v.log = slog.New(slog.DiscardHandler)
	}
	if err := v.make(ctx, h, cfg, p); err != nil {
		v.abandon()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, h.signer.explain(ctx, err)
	}
	// From here on the machine is own's, and Close, which waits for own, frees it.
	go v.own(begin, cfg.Console)
	stop := context.AfterFunc(ctx, func() { v.Kill() })
	err = <-v.begun
	if !stop() {
		err = cmp.Or(ctx.Err(), err)
	}
	if err != nil {
		v.Close()
		return nil, h.signer.explain(ctx, err)
	}
	return v, nil
}

// make makes what the machine is plugged into, and the machine.
func (v *vm) make(ctx context.Context, h *Hypervisor, cfg hv.Config, p plan) error {
	var err error
	if v.dir, err = os.MkdirTemp("", "sluice-vz-"); err != nil {
		return err
	}
	// In the machine's own directory: the framework reads the initramfs when it starts.
	boot, err := h.boot(ctx, cfg, v.dir)
	if err != nil {
		return err
	}
	p.kernel, p.initrd = boot.kernel, boot.initrd
	if v.console, p.console, err = link.Pair(link.Stream); err != nil {
		return err
	}
	v.theirs = append(v.theirs, p.console)
	if v.status, err = v.plug(&p, machine.StatusPort); err != nil {
		return err
	}
	agent, err := v.plug(&p, machine.AgentPort)
	if err != nil {
		return err
	}
	v.PutAgent(&stream{Conn: agent, closed: v.part})
	if p.card != nil {
		// The buffers are Pair's business: on macOS the send buffer is the
		// largest frame, and the receive buffer four times that and more.
		nic, guests, err := link.Pair(link.Datagram)
		if err != nil {
			return err
		}
		v.PutNIC(nic, link.Datagram)
		p.card.file, v.theirs = guests, append(v.theirs, guests)
	}
	// Last, since it can't be undone but by stopping what runs.
	v.machine, err = h.framework.create(p)
	return err
}

// abandon frees what make made of a machine that there isn't.
func (v *vm) abandon() {
	v.free()
	v.over = true
	v.CloseEnds()
	if v.console != nil {
		v.console.Close()
	}
	if v.status != nil {
		v.status.Close()
	}
}

// plug adds a port to the plan, and returns our end.
func (v *vm) plug(p *plan, name string) (net.Conn, error) {
	ours, theirs, err := link.Pair(link.Stream)
	if err != nil {
		return nil, err
	}
	v.theirs = append(v.theirs, theirs)
	p.ports = append(p.ports, port{name: name, file: theirs})
	defer ours.Close() // FileConn has its own
	return net.FileConn(ours)
}
