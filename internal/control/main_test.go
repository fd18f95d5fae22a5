package control

import (
	"testing"

	"github.com/sluicenet/sluice/internal/netlab"
)

func TestMain(m *testing.M) { netlab.Main(m) }
