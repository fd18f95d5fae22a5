package sandbox

import (
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/control"
)

// TestActivityEnding follows an activity through what may happen to it.
func TestActivityEnding(t *testing.T) {
	t.Parallel()
	start := time.Unix(1000, 0)
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	for _, tt := range []struct {
		name        string
		idle, limit int               // seconds
		do          func(a *activity) // what happens
		source      string            // "" is never
		end         int               // second
	}{
		{"no bounds", 0, 0, func(*activity) {}, "", 0},
		{"limit", 0, 60, func(*activity) {}, control.SourceLimit, 60},
		{"limit of a busy one", 10, 60, func(a *activity) { a.begin() }, control.SourceLimit, 60},
		{"idle from the start", 10, 60, func(*activity) {}, control.SourceIdle, 10},
		{"idle beyond the limit", 90, 60, func(*activity) {}, control.SourceLimit, 60},
		{"busy", 10, 0, func(a *activity) { a.begin() }, "", 0},
		{"idle again", 10, 0, func(a *activity) { a.begin(); a.end(at(5)) }, control.SourceIdle, 15},
		{"one of two left", 10, 0, func(a *activity) { a.begin(); a.begin(); a.end(at(5)) }, "", 0},
		{"touched", 10, 0, func(a *activity) { a.touch(at(7)) }, control.SourceIdle, 17},
		{"draining, idle", 10, 60, func(a *activity) { a.drain() }, control.SourceDrain, 0},
		{"draining, busy", 0, 0, func(a *activity) { a.begin(); a.drain() }, "", 0},
		{"drained", 10, 0, func(a *activity) { a.begin(); a.drain(); a.end(at(3)) }, control.SourceDrain, 3},
	} {
		a := newActivity(Config{IdleTimeout: time.Duration(tt.idle) * time.Second, MaxDuration: time.Duration(tt.limit) * time.Second}, start)
		tt.do(a)
		source, end := a.ending()
		if source != tt.source || source != "" && !end.Equal(at(tt.end)) {
			t.Errorf("%s: %q at %v, want %q at %v", tt.name, source, end, tt.source, at(tt.end))
		}
	}
	a := newActivity(Config{}, start)
	if !a.begin() || a.touch(start) != 2 {
		t.Error("a session or a touch wasn't counted")
	}
	a.drain()
	if a.begin() || !a.isDraining() {
		t.Error("a session began on a draining sandbox")
	}
}
