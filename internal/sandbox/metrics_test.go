package sandbox

import (
	"testing"
	"time"
)

// TestMeter checks shares of a processor.
func TestMeter(t *testing.T) {
	t.Parallel()
	start := time.Unix(100, 0)
	var m meter
	for _, tt := range []struct {
		cpu, passed time.Duration // since the start
		want        float64
	}{
		{time.Second, 10 * time.Second, 10},
		{3 * time.Second, 11 * time.Second, 200},
		{3 * time.Second, 12 * time.Second, 0},
		{2 * time.Second, 13 * time.Second, 0}, // a process went without being waited for
		{3 * time.Second, 13 * time.Second, 0},
	} {
		if got := m.percent(tt.cpu, start.Add(tt.passed), start); got != tt.want {
			t.Errorf("%v after %v: %v %%, want %v", tt.cpu, tt.passed, got, tt.want)
		}
	}
}
