package bench

import (
	"encoding/json"
	"fmt"
	"time"
)

// A transfer is what one row of iperf3 does.
type transfer struct {
	mtu     int
	reverse bool // host to guest
	streams int
}

func (x transfer) String() string {
	return fmt.Sprintf("MTU %d, %s, %d stream(s)", x.mtu, x.direction(x.reverse), x.streams)
}

// direction says where bytes go.
func (transfer) direction(toGuest bool) string {
	if toGuest {
		return "host→guest"
	}
	return "guest→host"
}

// transfers returns the rows, those of one MTU together since they share a guest.
func transfers() []transfer {
	var all []transfer
	for _, mtu := range []int{1500, 65520} {
		for _, streams := range []int{1, 8} {
			for _, reverse := range []bool{false, true} {
				all = append(all, transfer{mtu, reverse, streams})
			}
		}
	}
	return all
}

// measure runs iperf3 in the guest against the server on the host's loopback.
func (x transfer) measure(g *guest, host string, d time.Duration) (result, error) {
	line := fmt.Sprintf("iperf3 --json --client %s --port %d --time %d --parallel %d", host, iperfPort, int(d.Seconds()), x.streams)
	if x.reverse {
		line += " --reverse"
	}
	before, err := cpuOf(g.pids())
	if err != nil {
		return result{}, err
	}
	out, err := g.run(line)
	if err != nil {
		return result{}, err
	}
	after, err := cpuOf(g.pids())
	if err != nil {
		return result{}, err
	}
	r, err := parseIPerf(out)
	r.peer = (after - before).Seconds()
	return r, err
}

// parseIPerf reads iperf3's report: what the receiver got, and the CPU time of both
// ends.
func parseIPerf(out string) (result, error) {
	var report struct {
		Error string
		End   struct {
			Received struct {
				Seconds float64
				Bits    float64 `json:"bits_per_second"`
			} `json:"sum_received"`
			CPU struct {
				Host   float64 `json:"host_total"` // percent of one core
				Remote float64 `json:"remote_total"`
			} `json:"cpu_utilization_percent"`
		}
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		return result{}, fmt.Errorf("read iperf3's report: %w", err)
	}
	if report.Error != "" || report.End.Received.Bits == 0 {
		return result{}, fmt.Errorf("iperf3: nothing was received: %s", report.Error)
	}
	end := report.End
	return result{
		value: end.Received.Bits / 1e9,
		tools: (end.CPU.Host + end.CPU.Remote) / 100 * end.Received.Seconds,
	}, nil
}
