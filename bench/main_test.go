package bench

import (
	"flag"
	"os"
	"testing"
	"time"

	"github.com/sluicenet/sluice/hv/namespace"
	"github.com/sluicenet/sluice/internal/netlab"
)

var (
	table     = flag.Bool("table", false, "measure and print the table; without it there is nothing to test")
	rounds    = flag.Int("rounds", 5, "rounds, of which each row shows the median")
	duration  = flag.Duration("duration", 2*time.Second, "of one throughput measurement")
	onlyPeers = flag.String("peers", "", "only the peers whose name matches this regular expression")
	onlyRows  = flag.String("rows", "", "only the rows whose name matches this regular expression")
)

func TestMain(m *testing.M) {
	if os.Args[0] == namespace.Role { // a guest of TestLink's
		namespace.Main() // doesn't return
	}
	netlab.Main(m)
}
