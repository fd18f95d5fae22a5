package namespace

import (
	"testing"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/internal/guest"
)

// BenchmarkStart is the time until a guest with a card has run true: start, the
// agent's acknowledgement, and the command.
func BenchmarkStart(b *testing.B) {
	h := New()
	for b.Loop() {
		vm, err := h.Start(b.Context(), hv.Config{Name: "bench", NIC: &hv.NIC{}})
		if err != nil {
			b.Fatal(err)
		}
		client := guest.NewClient(vm.Agent())
		if err := client.Boot(b.Context(), guest.Bootstrap{Hostname: "bench"}); err != nil {
			b.Fatal(err)
		}
		if _, err := inherit(b.Context(), client, "true"); err != nil {
			b.Fatal(err)
		}
		b.StopTimer() // the end of a TAP is the kernel's, 15 ms of RCU
		client.Close()
		vm.Close()
		b.StartTimer()
	}
}
