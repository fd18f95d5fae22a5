package namespace

import (
	"context"

	"github.com/sluicenet/sluice/hv"
)

// Probe starts a guest.
func (h *Hypervisor) Probe(ctx context.Context) hv.Report {
	vm, err := h.Start(ctx, hv.Config{Name: "probe", NIC: &hv.NIC{}})
	if err != nil {
		return hv.Report{Reason: err.Error()}
	}
	vm.Close()
	return hv.Report{Usable: true, Reason: "started a guest"}
}
