package bench

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestCPUOfSelf(t *testing.T) {
	t.Parallel()
	for start := time.Now(); time.Since(start) < 50*time.Millisecond; {
	}
	got, err := cpuOf([]int{os.Getpid()})
	if err != nil || got <= 0 {
		t.Errorf("%v, %v, want some", got, err)
	}
}

func TestMedian(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{1}, 1},
		{[]float64{3, 1, 2}, 2},
		{[]float64{4, 1, 3, 2}, 2.5},
		{[]float64{5, 5, 5, 1, 900}, 5},
	} {
		var results []result
		for _, v := range row.values {
			results = append(results, result{value: v, peer: -v})
		}
		if got := median(results); got.value != row.want || got.peer != -row.want {
			t.Errorf("median of %v: %+v, want %v", row.values, got, row.want)
		}
	}
}

func TestPrintTable(t *testing.T) {
	t.Parallel()
	var r, e row
	r.name, r.unit = "MTU 1500", "Gbit/s"
	r.add("loopback", result{value: 44, peer: 0, tools: 2})
	r.add("sluice", result{value: 15.25, peer: 1, tools: 3})
	e.name, e.unit = "start to first byte", "ms"
	e.add("loopback", result{value: 1.5})
	var b strings.Builder
	if err := printTable(&b, []string{"loopback", "sluice"}, []*row{&r, &e}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"MTU 1500, Gbit/s  44.0", "15.2", "0.00+2.00", "1.00+3.00", "start to first byte, ms  1.50", "–"} {
		if !strings.Contains(strings.Join(strings.Fields(b.String()), " "), strings.Join(strings.Fields(want), " ")) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func TestParseIPerf(t *testing.T) {
	t.Parallel()
	good := `{"end":{"sum_received":{"seconds":2,"bits_per_second":15.5e9},"cpu_utilization_percent":{"host_total":50,"remote_total":25}}}`
	for _, row := range []struct {
		out  string
		want result
		ok   bool
	}{
		{good, result{value: 15.5, tools: 1.5}, true},
		{`{"error":"unable to connect"}`, result{}, false},
		{`{}`, result{}, false},
		{`not JSON`, result{}, false},
	} {
		got, err := parseIPerf(row.out)
		if got != row.want || (err == nil) != row.ok {
			t.Errorf("%s: %+v, %v, want %+v, success %t", row.out, got, err, row.want, row.ok)
		}
	}
}
