package vz

import (
	"context"
	"testing"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/hv/hvtest"
	"github.com/sluicenet/sluice/internal/netlab"
	"github.com/sluicenet/sluice/vnet/link"
)

// TestConformanceOfFake runs the suite with machines that are played: all but the
// framework and the guest's kernel is real.
func TestConformanceOfFake(t *testing.T) {
	t.Parallel()
	root := hvtest.Root(t, netlab.Tool(t, "busybox"))
	f := &fake{boot: func(m *fakeMachine) func(*fakeMachine) { return m.play(root) }}
	hvtest.Run(t, played{f.hypervisor(t)})
}

// A played hypervisor is one whose guests' root is a directory, whatever disk is said
// to be theirs.
type played struct{ *Hypervisor }

// Start starts a guest with a disk that nobody opens.
func (p played) Start(ctx context.Context, cfg hv.Config) (hv.VM, error) {
	if len(cfg.Disks) == 0 {
		cfg.Disks = diskConfig().Disks
	}
	return p.Hypervisor.Start(ctx, cfg)
}

// play starts a hvtest.Machine on the machine's ends, with root as its root, and
// returns what waits for its end, or ends it when the machine is stopped.
func (m *fakeMachine) play(root string) func(*fakeMachine) {
	machine := hvtest.Machine{
		Agent: m.port("sluice.agent"), Status: m.port("sluice.status"), Console: m.plan.console,
		Words: m.plan.commandLine, Root: root, Format: link.Datagram,
	}
	if c := m.plan.card; c != nil {
		machine.Card, machine.MAC = c.file, c.mac
	}
	cmd := machine.Command()
	if err := cmd.Start(); err != nil {
		return func(m *fakeMachine) { m.become(failed) }
	}
	return func(m *fakeMachine) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = cmd.Wait() // how it ended its process 1 says
			m.become(stopped)
		}()
		select {
		case <-m.ended:
			_ = cmd.Process.Kill() // it may have ended
			<-done
		case <-done:
		}
	}
}
