//go:build !linux

package namespace

import (
	"errors"
	"testing"

	"github.com/sluicenet/sluice/hv"
)

// See roles_linux_test.go: elsewhere there are none.
var roles map[string]func()

func TestUnsupportedIsSaid(t *testing.T) {
	t.Parallel()
	if got := New().Probe(t.Context()); got.Usable || got.Reason == "" {
		t.Errorf("Probe() = %+v; want a reason", got)
	}
	if vm, err := New().Start(t.Context(), hv.Config{}); vm != nil || !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Start = %v, %v; want ErrUnsupported", vm, err)
	}
}
