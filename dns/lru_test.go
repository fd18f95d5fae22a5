package dns

import (
	"strings"
	"testing"
)

func TestLRU(t *testing.T) {
	t.Parallel()
	l := newLRU[string, int]()
	if _, _, ok := l.oldest(); ok {
		t.Error("empty: got an oldest entry")
	}
	for _, step := range []struct {
		do   func()
		want string // keys, oldest first
	}{
		{func() { l.put("a", 1) }, "a"},
		{func() { l.put("b", 2) }, "a b"},
		{func() { l.put("c", 3) }, "a b c"},
		{func() { l.get("a") }, "b c a"},
		{func() { l.get("nobody") }, "b c a"},
		{func() { l.put("c", 4) }, "b a c"},
		{func() { l.remove("a") }, "b c"},
		{func() { l.remove("a") }, "b c"},
		{func() { l.remove("b") }, "c"},
		{func() { l.remove("c") }, ""},
		{func() { l.put("d", 5) }, "d"},
	} {
		step.do()
		var keys []string
		for n := l.ring.prev; n != &l.ring; n = n.prev {
			keys = append(keys, n.key)
		}
		if got := strings.Join(keys, " "); got != step.want || l.len() != len(keys) {
			t.Errorf("got %q and length %d, want %q", got, l.len(), step.want)
		}
	}
	if v, ok := l.get("d"); !ok || v != 5 {
		t.Errorf("got %d, %t, want 5", v, ok)
	}
}
