//go:build cgo

package krun

import (
	"testing"

	"github.com/sluicenet/sluice/hv/hvtest"
)

// TestConformance runs the suite with the stub: all but libkrun and the guest's
// kernel is real.
func TestConformance(t *testing.T) {
	t.Parallel()
	s := buildStub(t, nil)
	t.Cleanup(func() { s.checkContract(t) })
	hvtest.Run(t, rooted{s.hypervisor(t), testRoot(t)})
}

// TestConformanceByVsock runs it with a library that has no ports of consoles.
func TestConformanceByVsock(t *testing.T) {
	t.Parallel()
	s := buildStub(t, []string{"krun_add_console_port_inout"})
	t.Cleanup(func() { s.checkContract(t) })
	hvtest.Run(t, rooted{s.hypervisor(t), testRoot(t)})
}

// TestConformanceReal runs it with the libkrun of this machine; make
// integration-krun shows why not where there is none.
func TestConformanceReal(t *testing.T) {
	t.Parallel()
	hvtest.Run(t, rooted{New(), testRoot(t)})
}
