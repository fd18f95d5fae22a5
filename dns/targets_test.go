package dns

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

// originsOf returns "name depth" of the questions that led to target, sorted.
func originsOf(t *targetTable, target string, now time.Time) string {
	var words []string
	for _, o := range t.origins(nil, target, now) {
		words = append(words, fmt.Sprint(o.name, " ", o.depth))
	}
	slices.Sort(words)
	return strings.Join(words, ", ")
}

func TestTargetTable(t *testing.T) {
	t.Parallel()
	tab := newTargetTable(100)
	add := func(from, to string, life time.Duration) {
		tab.add(to, origin{name: from, qtype: mdns.TypeHTTPS, depth: 1, expires: epoch.Add(life)}, epoch)
	}
	add("a", "b", time.Minute)
	add("b", "c", time.Hour)
	add("x", "c", time.Hour)
	add("c", "c", time.Hour)
	for _, tt := range []struct {
		target string
		after  time.Duration
		want   string
	}{
		{"b", 0, "a 1"},
		{"c", 0, "a 2, b 1, x 1"},
		{"c", time.Minute, "b 1, x 1"},
		{"c", time.Hour, ""},
		{"a", 0, ""},
		{"nobody", 0, ""},
	} {
		if got := originsOf(tab, tt.target, epoch.Add(tt.after)); got != tt.want {
			t.Errorf("%s after %v: got %q, want %q", tt.target, tt.after, got, tt.want)
		}
	}
	add("a", "b", time.Hour)
	if got := originsOf(tab, "b", epoch.Add(time.Minute)); got != "a 1" {
		t.Errorf("prolonged: got %q, want a 1", got)
	}
}

// TestTargetBounds leads from one name to the next for ever, to one from many,
// and to ever new ones.
func TestTargetBounds(t *testing.T) {
	t.Parallel()
	tab := newTargetTable(100)
	o := origin{qtype: mdns.TypeHTTPS, depth: 1, expires: epoch.Add(time.Hour)}
	for i := range 40 {
		o.name = fmt.Sprint("n", i)
		tab.add(fmt.Sprint("n", i+1), o, epoch)
	}
	for i := 1; i <= 40; i++ {
		for _, o := range tab.origins(nil, fmt.Sprint("n", i), epoch) {
			if o.depth > maxTargetDepth {
				t.Errorf("n%d: origin %s is %d steps away", i, o.name, o.depth)
			}
		}
	}
	for i := range 1000 {
		o.name = fmt.Sprint("from", i)
		tab.add("to", o, epoch)
		tab.add(fmt.Sprint("to", i), o, epoch)
	}
	if n := len(tab.origins(nil, "to", epoch)); n > maxOrigins {
		t.Errorf("got %d origins, want at most %d", n, maxOrigins)
	}
	if n := tab.targets.Len(); n > 100 {
		t.Errorf("got %d targets, want at most 100", n)
	}
}
