package lru

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// keys lists a table's keys, the oldest first.
func keys[K comparable, V any](t *Table[K, V]) []K {
	var ks []K
	for e := range t.All {
		ks = append(ks, e.Key())
	}
	return ks
}

func TestTable(t *testing.T) {
	t.Parallel()
	var l Table[string, int]
	if l.Oldest() != nil || l.Len() != 0 || l.Find("a") != nil || keys(&l) != nil {
		t.Error("the zero table is not empty")
	}
	for _, step := range []struct {
		name string
		do   func()
		want string // keys, oldest first
	}{
		{"first", func() { l.Put("a", 1) }, "a"},
		{"another", func() { l.Put("b", 2) }, "a b"},
		{"a third", func() { l.Put("c", 3) }, "a b c"},
		{"find is no use", func() { l.Find("a") }, "a b c"},
		{"touch the oldest", func() { l.Touch(l.Find("a")) }, "b c a"},
		{"touch the newest", func() { l.Touch(l.Find("a")) }, "b c a"},
		{"put again", func() { l.Put("c", 4) }, "b a c"},
		{"remove in the middle", func() { l.Remove(l.Find("a")) }, "b c"},
		{"remove the oldest", func() { l.Remove(l.Oldest()) }, "c"},
		{"remove the last", func() { l.Remove(l.Find("c")) }, ""},
		{"use it again", func() { l.Put("d", 5) }, "d"},
	} {
		step.do()
		got := keys(&l)
		if strings.Join(got, " ") != step.want || l.Len() != len(got) {
			t.Errorf("%s: %q, length %d, want %q", step.name, got, l.Len(), step.want)
		}
		if oldest := l.Oldest(); oldest != nil && oldest.Key() != got[0] {
			t.Errorf("%s: oldest %q, want %q", step.name, oldest.Key(), got[0])
		}
	}
	if e := l.Put("d", 6); e != l.Find("d") || e.Value != 6 {
		t.Errorf("put again: %+v, want the same entry with 6", e)
	}
}

func TestAll(t *testing.T) {
	t.Parallel()
	var l Table[int, string]
	for i := range 4 {
		l.Put(i, fmt.Sprint(i))
	}
	var seen []string
	for e := range l.All {
		if seen = append(seen, e.Value); e.Key() == 2 {
			break
		}
		l.Remove(e)
	}
	if got := keys(&l); !slices.Equal(seen, []string{"0", "1", "2"}) || !slices.Equal(got, []int{2, 3}) {
		t.Errorf("seen %q, left %v", seen, got)
	}
}

// TestModel compares with a slice that is kept in order.
func TestModel(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(3, 4))
	var l Table[int, int]
	var model []int
	for step := range 5000 {
		k := rnd.IntN(20)
		i := slices.Index(model, k)
		e := l.Find(k)
		if (e != nil) != (i >= 0) {
			t.Fatalf("Find(%d) = %v, model %v", k, e, model)
		}
		rest := model
		if i >= 0 {
			rest = slices.Delete(slices.Clone(model), i, i+1)
		}
		switch do := rnd.IntN(3); {
		case e != nil && do == 0:
			l.Touch(e)
			model = append(rest, k)
		case e != nil && do == 1:
			l.Remove(e)
			model = rest
		default:
			if got := l.Put(k, step); got.Value != step || got.Key() != k {
				t.Fatalf("Put(%d, %d) = %v", k, step, got)
			}
			model = append(rest, k)
		}
		if got := keys(&l); !slices.Equal(got, model) || l.Len() != len(model) {
			t.Fatalf("got %v, want %v", got, model)
		}
	}
}

// BenchmarkUse is what a table costs each datagram of a guest.
func BenchmarkUse(b *testing.B) {
	var l Table[netip.AddrPort, *int]
	peers := make([]netip.AddrPort, 1024)
	for i := range peers {
		peers[i] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), uint16(i))
		l.Put(peers[i], new(int))
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		e := l.Find(peers[i%len(peers)])
		*e.Value++
		l.Touch(e)
	}
}
