package qemu

import (
	"runtime"
	"testing"
	"time"
)

func TestFrequency(t *testing.T) {
	t.Parallel()
	start := time.Now()
	at := func(d time.Duration, count uint64) tscSample { return tscSample{count, start.Add(d)} }
	for _, row := range []struct {
		first, last tscSample
		want        uint64
	}{
		{at(0, 1000), at(time.Second, 2_600_001_000), 2_600_000},
		{at(0, 0), at(5*time.Millisecond, 10_000_000), 2_000_000},
		{at(0, 0), at(4*time.Millisecond, 8_000_000), 0}, // too close
		{at(0, 5), at(time.Second, 5), 0},                // stands still
		{at(0, 5), at(time.Second, 4), 0},                // runs back
		{at(0, 0), at(-time.Second, 2_000_000), 0},       // in the past
		{at(0, 0), at(time.Hour, 3_600*3_000_000_000), 3_000_000},
	} {
		if got := frequencyKHz(row.first, row.last); got != row.want {
			t.Errorf("frequencyKHz(%v, %v) = %d; want %d", row.first.count, row.last.count, got, row.want)
		}
	}
}

// Two measurements of this machine agree to a thousandth: a clock that is wrong by
// as much is wrong by a minute in a day.
func TestMeasureFrequency(t *testing.T) {
	t.Parallel()
	a, b := tscFrequencyKHz(sampleTSC()), tscFrequencyKHz(sampleTSC())
	if runtime.GOARCH != "amd64" {
		if a != 0 {
			t.Errorf("a counter of %d kHz on %s", a, runtime.GOARCH)
		}
		return
	}
	if difference := max(a, b) - min(a, b); a < 100_000 || difference > a/1000 {
		t.Errorf("measured %d and %d kHz", a, b)
	}
}
