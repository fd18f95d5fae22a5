package vnet

import (
	"os"
	"slices"
	"strings"
	"testing"

	"gvisor.dev/gvisor/pkg/refs"

	"github.com/sluicenet/sluice/internal/netlab"
)

// TestMain runs the tests in a network namespace where there is one to be had,
// so that no packet of theirs can leave, and checks that nothing outlives them:
// no goroutine, and no packet or buffer of gVisor's.
func TestMain(m *testing.M) {
	refs.SetLeakMode(refs.LeaksPanic)
	// A fuzzer and its workers speak over descriptors that a second process
	// would not have. Fuzz targets here open no socket but to loopback.
	fuzzing := slices.ContainsFunc(os.Args, func(a string) bool { return strings.HasPrefix(a, "-test.fuzz") })
	if !fuzzing {
		netlab.Enter()
	}
	code := netlab.Run(m)
	if code == 0 {
		refs.DoLeakCheck()
	}
	os.Exit(code)
}
