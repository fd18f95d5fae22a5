package bench

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/sluicenet/sluice/internal/netlab"
)

// idleFlows is how many connections the row of memory holds open.
const idleFlows = 1000

// memory measures what an idle TCP flow costs: by how much the peer's processes
// grow, resident, while the guest holds connections on which nothing happens.
func (b *bench) memory() {
	name := fmt.Sprintf("memory of each of %d idle flows", idleFlows)
	if !b.pattern.MatchString(name) {
		return
	}
	r := b.newRow(name, "KiB")
	b.each(name, 1500, func(g *guest) error {
		before, err := memoryOf(g.pids())
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%s idle -parallel %d -duration 3s %s:%d && echo held", b.program, idleFlows, g.peer.host, echoPort)
		if _, _, err := g.Run("(" + line + ") >/tmp/held 2>&1 & sleep 2"); err != nil {
			return err
		}
		after, err := memoryOf(g.pids())
		if err != nil {
			return err
		}
		if out, err := g.run("sh -c 'sleep 2; cat /tmp/held'"); err != nil || !strings.Contains(out, "held") {
			return fmt.Errorf("not all connections were held: %s %w", out, err)
		}
		r.add(g.peer.name, result{value: max(0, float64(after-before)/idleFlows/1024)})
		return nil
	})
}

// memoryOf returns the bytes of memory that the trees of processes below the roots
// have resident, programs that the bench itself runs in there left out.
func memoryOf(roots []int) (total int, err error) {
	err = eachOf(roots, func(p netlab.Process) error {
		if p.Name == "exchange" || p.Name == "timeout" || p.Name == "sleep" {
			return nil
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.PID))
		if err != nil {
			return nil // it has ended
		}
		fields := strings.Fields(string(text))
		if len(fields) < 2 {
			return fmt.Errorf("read /proc/%d/statm: %q", p.PID, text)
		}
		pages, err := strconv.Atoi(fields[1])
		total += pages * os.Getpagesize()
		return err
	})
	return total, err
}
