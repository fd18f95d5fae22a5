package dns

import (
	"testing"
	"time"
)

func TestLimiter(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name             string
		perSecond, burst int
		steps            []time.Duration // when a thousand tries are made
		want             []int           // how many pass
	}{
		{"burst, then the rate", 200, 300, []time.Duration{0, 0, time.Second, time.Second}, []int{300, 0, 200, 0}},
		{"a pause fills the bucket", 200, 300, []time.Duration{0, time.Minute}, []int{300, 300}},
		{"half a second", 200, 300, []time.Duration{0, 500 * time.Millisecond}, []int{300, 100}},
		{"clock goes back", 200, 300, []time.Duration{time.Minute, 0}, []int{300, 0}},
		{"no limit", 0, 300, []time.Duration{0, 0}, []int{1000, 1000}},
		{"no limit, negative", -1, 300, []time.Duration{0, 0}, []int{1000, 1000}},
		{"burst of one", 10, 0, []time.Duration{0, 100 * time.Millisecond}, []int{1, 1}},
	} {
		l := newLimiter(tt.perSecond, tt.burst)
		for i, after := range tt.steps {
			passed := 0
			for range 1000 {
				if l.allow(epoch.Add(after)) {
					passed++
				}
			}
			if passed != tt.want[i] {
				t.Errorf("%s, step %d: got %d, want %d", tt.name, i, passed, tt.want[i])
			}
		}
	}
}
