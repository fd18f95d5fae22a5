package bench

import (
	"slices"
	"time"

	"github.com/sluicenet/sluice/internal/netlab"
)

// cpuOf returns the CPU time that the trees of processes below the roots have used,
// programs that the bench itself runs in there left out.
func cpuOf(roots []int) (time.Duration, error) {
	var total time.Duration
	err := eachOf(roots, func(p netlab.Process) error {
		total += p.CPU
		return nil
	})
	return total, err
}

// eachOf calls f with each process of the trees below the roots, but shells and
// iperf3.
func eachOf(roots []int, f func(netlab.Process) error) error {
	all, err := netlab.Processes()
	if err != nil {
		return err
	}
	for todo := slices.Clone(roots); len(todo) > 0; {
		pid := todo[0]
		todo = todo[1:]
		for _, p := range all {
			if p.Parent == pid {
				todo = append(todo, p.PID)
			}
			if p.PID == pid && p.Name != "sh" && p.Name != "iperf3" {
				if err := f(p); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
