package hv_test

import (
	"context"
	"fmt"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/hv/hvtest"
)

// A guest is started, hands over its card and its agent's stream, and is ended.
func ExampleHypervisor() {
	ctx := context.Background()
	var h hv.Hypervisor = &hvtest.Fake{} // or one of sluice.Backends
	if report := h.Probe(ctx); !report.Usable {
		fmt.Println(report.Reason, report.Fix)
		return
	}
	vm, err := h.Start(ctx, hv.Config{Name: "example"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer vm.Close()
	agent := vm.Agent() // a guest.Client speaks with it
	defer agent.Close()

	if err := vm.Kill(); err != nil {
		fmt.Println(err)
	}
	exit, err := vm.Wait(ctx)
	fmt.Printf("ended by signal %d, error %v\n", exit.Signal, err)
	// Output: ended by signal 9, error <nil>
}
