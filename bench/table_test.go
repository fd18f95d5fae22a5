package bench

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// A result is one measurement: a figure, and what it cost.
type result struct {
	value float64 // in the row's unit; NaN-free
	peer  float64 // CPU time of the peer's processes: seconds, or microseconds of each exchange; 0 where it isn't measured
	tools float64 // CPU seconds of the programs that measured
}

// A row is a line of the table for every peer: what was measured, how often.
type row struct {
	name string // for example "MTU 1500, guest→host, 8 streams"
	unit string
	// results holds what each peer got in each round, by the peer's name.
	results map[string][]result
}

// perExchange is the unit of rows whose cost is told for each exchange.
const perExchange = "per second"

// add notes a result.
func (r *row) add(peer string, x result) {
	if r.results == nil {
		r.results = make(map[string][]result)
	}
	r.results[peer] = append(r.results[peer], x)
}

// median returns the median of each of a result's parts.
func median(results []result) result {
	part := func(get func(result) float64) float64 {
		var values []float64
		for _, r := range results {
			values = append(values, get(r))
		}
		slices.Sort(values)
		n := len(values)
		return (values[(n-1)/2] + values[n/2]) / 2
	}
	return result{
		value: part(func(r result) float64 { return r.value }),
		peer:  part(func(r result) float64 { return r.peer }),
		tools: part(func(r result) float64 { return r.tools }),
	}
}

// printTable writes the rows; the first peer is the limit that the others are
// compared with.
func printTable(w io.Writer, peers []string, rows []*row) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(tw, "\t%s\t\n", strings.Join(peers, "\t"))
	for _, r := range rows {
		fmt.Fprintf(tw, "%s, %s\t", r.name, r.unit)
		var costs []string
		for _, p := range peers {
			results := r.results[p]
			if len(results) == 0 {
				fmt.Fprint(tw, "–\t")
				costs = append(costs, "–")
				continue
			}
			m := median(results)
			fmt.Fprintf(tw, "%s\t", figure(m.value))
			if r.unit == perExchange {
				costs = append(costs, figure(m.peer))
			} else {
				costs = append(costs, fmt.Sprintf("%.2f+%.2f", m.peer, m.tools))
			}
		}
		switch r.unit {
		case "Gbit/s":
			fmt.Fprintf(tw, "\nCPU s, peer + iperf3\t%s\t", strings.Join(costs, "\t"))
		case perExchange:
			fmt.Fprintf(tw, "\nCPU µs of each, peer\t%s\t", strings.Join(costs, "\t"))
		}
		fmt.Fprintln(tw)
	}
	return tw.Flush()
}

// figure prints a number with three digits that matter.
func figure(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
