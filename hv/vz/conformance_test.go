package vz

import (
	"testing"

	"github.com/sluicenet/sluice/hv/hvtest"
)

// TestConformance runs the suite on a Mac; make integration-vz says what is missing
// where it can't.
func TestConformance(t *testing.T) {
	t.Parallel()
	hvtest.Run(t, New())
}
