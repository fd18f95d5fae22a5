package netlab

import (
	"fmt"
	"slices"
	"sync"
	"testing"
)

// ways are this machine's routes to others by family, each behind those it needs.
var ways = map[int][]string{
	4: {"192.168.50.0/24 dev wan proto kernel scope link src 192.168.50.2", "default via 192.168.50.1 dev wan"},
	6: {"2606:2800:220:50::/64 dev wan proto kernel", "default via fe80::1 dev wan"},
}

// LoseFamily takes this machine's routes of a family, 4 or 6, away: it keeps its
// addresses but reaches others over the other family only. restore gives the routes
// back, at the latest when the test ends. It concerns all tests.
func (l *Lab) LoseFamily(t testing.TB, family int) (restore func()) {
	t.Helper()
	flag := fmt.Sprintf("-%d", family)
	var add, del []string
	for _, way := range ways[family] {
		add = append(add, "route add "+way)
		del = append(del, "route del "+way)
	}
	slices.Reverse(del)
	if err := ip("", flag, del...); err != nil {
		t.Fatal(err)
	}
	restore = sync.OnceFunc(func() {
		if err := ip("", flag, add...); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(restore)
	return restore
}
