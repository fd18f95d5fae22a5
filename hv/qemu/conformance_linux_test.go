package qemu

import (
	"testing"

	"github.com/sluicenet/sluice/hv/hvtest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	hvtest.Run(t, rooted{emulated(t), busybox(t)})
}
