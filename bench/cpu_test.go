package bench

import (
	"slices"
	"time"

	"github.com/sluicenet/sluice/internal/netlab"
)

// cpuOf returns the CPU time that the trees of processes below the roots have used,
// programs that the bench itself runs in there left out.
func cpuOf(roots []int) (time.Duration, error) {
	all, err := netlab.Processes()
	if err != nil {
		return 0, err
	}
	var total time.Duration
	for todo := slices.Clone(roots); len(todo) > 0; {
		pid := todo[0]
		todo = todo[1:]
		for _, p := range all {
			if p.Parent == pid {
				todo = append(todo, p.PID)
			}
			if p.PID == pid && p.Name != "sh" && p.Name != "iperf3" {
				total += p.CPU
			}
		}
	}
	return total, nil
}
