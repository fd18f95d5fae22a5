package dns

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// addrs parses addresses separated by spaces.
func addrs(s string) []netip.Addr {
	var list []netip.Addr
	for _, f := range strings.Fields(s) {
		list = append(list, netip.MustParseAddr(f))
	}
	return list
}

// live returns the table's names for an address, sorted.
func live(t *nameTable, addr string, now time.Time) string {
	names := t.appendNames(nil, netip.MustParseAddr(addr), now)
	slices.Sort(names)
	return strings.Join(names, " ")
}

func TestNamesLife(t *testing.T) {
	t.Parallel()
	tab := newNameTable(Limits{Names: 10, Pairs: 100, AddrsPerName: 64, NamesPerAddr: 64})
	tab.add("a", addrs("1.1.1.1 2.2.2.2"), epoch.Add(10*time.Minute), epoch)
	tab.add("b", addrs("1.1.1.1"), epoch.Add(20*time.Minute), epoch)
	tab.add("a", addrs("3.3.3.3"), epoch.Add(30*time.Minute), epoch) // a new answer adds to the old
	for _, tt := range []struct {
		addr  string
		after time.Duration
		want  string
	}{
		{"1.1.1.1", 0, "a b"},
		{"1.1.1.1", 10*time.Minute - 1, "a b"},
		{"1.1.1.1", 10 * time.Minute, "b"},
		{"1.1.1.1", 20 * time.Minute, ""},
		{"2.2.2.2", 0, "a"},
		{"2.2.2.2", 10 * time.Minute, ""},
		{"3.3.3.3", 29 * time.Minute, "a"},
		{"9.9.9.9", 0, ""},
	} {
		if got := live(tab, tt.addr, epoch.Add(tt.after)); got != tt.want {
			t.Errorf("%s after %v: got %q, want %q", tt.addr, tt.after, got, tt.want)
		}
	}
	// A shorter answer shortens nothing.
	tab.add("b", addrs("1.1.1.1"), epoch.Add(time.Minute), epoch)
	if got := live(tab, "1.1.1.1", epoch.Add(19*time.Minute)); got != "b" {
		t.Errorf("after a shorter answer: got %q, want b", got)
	}
}

func TestNamesHold(t *testing.T) {
	t.Parallel()
	tab := newNameTable(Limits{Names: 10, Pairs: 100, AddrsPerName: 64, NamesPerAddr: 64})
	addr := netip.MustParseAddr("1.1.1.1")
	tab.add("a", addrs("1.1.1.1 2.2.2.2"), epoch.Add(time.Minute), epoch)
	tab.add("b", addrs("1.1.1.1"), epoch.Add(time.Minute), epoch)
	one := tab.hold(addr, []string{"a", "nobody"}, epoch)
	two := tab.hold(addr, []string{"a"}, epoch)
	hour := epoch.Add(time.Hour)
	tab.add("c", addrs("5.5.5.5"), hour.Add(time.Minute), hour) // expires what can be
	if got := live(tab, "1.1.1.1", hour); got != "a" {
		t.Errorf("while a is held: got %q, want a", got)
	}
	tab.release(one, hour)
	if got := live(tab, "1.1.1.1", hour.Add(time.Hour)); got != "a" {
		t.Errorf("while a is held once more: got %q, want a", got)
	}
	tab.release(two, hour)
	if got := live(tab, "1.1.1.1", hour.Add(nameGrace-1)); got != "a" {
		t.Errorf("in the grace: got %q, want a", got)
	}
	if got := live(tab, "1.1.1.1", hour.Add(nameGrace)); got != "" {
		t.Errorf("after the grace: got %q, want none", got)
	}
	if pairs := tab.hold(addr, []string{"a"}, hour.Add(nameGrace)); len(pairs) != 0 {
		t.Errorf("hold of what expired: got %d pairs, want none", len(pairs))
	}
}

// TestNamesEvict attacks the table with names, addresses, and both.
func TestNamesEvict(t *testing.T) {
	t.Parallel()
	tab := newNameTable(Limits{Names: 4, Pairs: 8, AddrsPerName: 3, NamesPerAddr: 4})
	expires := epoch.Add(time.Hour)
	add := func(name, list string) string {
		kept, evicted := tab.add(name, addrs(list), expires, epoch)
		return fmt.Sprint(kept, " ", evicted)
	}
	steps := []struct{ name, addrs, want, all string }{
		{"a", "1.1.1.1", "1 0", "a"},
		{"b", "2.2.2.2", "1 0", "a b"},
		{"c", "3.3.3.3", "1 0", "a b c"},
		{"d", "4.4.4.4", "1 0", "a b c d"},
		{"a", "1.1.1.1", "1 0", "a b c d"}, // used: b is now the oldest
		{"e", "5.5.5.5", "1 1", "a c d e"},
		{"e", "5.5.5.5 5.5.5.6 5.5.5.7 5.5.5.8", "3 0", "a c d e"}, // one answer doesn't push out itself
		{"e", "5.5.5.9", "1 1", "a c d e"},                         // another does
		{"f", "6.6.6.6 6.6.6.7 6.6.6.8", "3 1", "a d e f"},         // c goes: names
		{"a", "1.1.1.2 1.1.1.3", "2 4", "a f"},                     // d and e go: pairs
		{"a", "1.1.1.4 1.1.1.5 1.1.1.6 1.1.1.7", "3 3", "a f"},     // its own three
		{"g", "7.7.7.7 7.7.7.8 7.7.7.9", "3 3", "a g"},             // f goes
		{"h", "8.8.8.1 8.8.8.2 8.8.8.3 8.8.8.4", "3 3", "g h"},     // a goes
		{"i", "", "0 0", "g h"},                                    // nothing to record
	}
	for i, s := range steps {
		if got := add(s.name, s.addrs); got != s.want {
			t.Errorf("step %d: add %s %s: got %s, want %s", i, s.name, s.addrs, got, s.want)
		}
		all := slices.Sorted(maps.Keys(tab.byName))
		if got := strings.Join(all, " "); got != s.all {
			t.Errorf("step %d: add %s %s: names %s, want %s", i, s.name, s.addrs, got, s.all)
		}
		checkNames(t, tab)
	}
}

// TestNamesEvictSparesHeld floods the table while flows hold all or some of it.
func TestNamesEvictSparesHeld(t *testing.T) {
	t.Parallel()
	tab := newNameTable(Limits{Names: 3, Pairs: 6, AddrsPerName: 2, NamesPerAddr: 3})
	expires := epoch.Add(time.Hour)
	for _, name := range []string{"a", "b", "c"} {
		tab.add(name, addrs("1.1.1.1 2.2.2.2"), expires, epoch)
	}
	a := tab.hold(netip.MustParseAddr("1.1.1.1"), []string{"a", "b", "c"}, epoch)
	if kept, _ := tab.add("d", addrs("4.4.4.4"), expires, epoch); kept != 0 {
		t.Errorf("all names held: got %d recorded, want 0", kept)
	}
	b := tab.hold(netip.MustParseAddr("2.2.2.2"), []string{"a"}, epoch)
	if kept, evicted := tab.add("a", addrs("3.3.3.3"), expires, epoch); kept != 0 || evicted != 0 {
		t.Errorf("all addresses of a held: got %d recorded, %d evicted, want 0", kept, evicted)
	}
	if kept, evicted := tab.add("b", addrs("3.3.3.3"), expires, epoch); kept != 1 || evicted != 1 {
		t.Errorf("one address of b held: got %d recorded, %d evicted, want 1, 1", kept, evicted)
	}
	checkNames(t, tab)
	tab.release(b, epoch)
	tab.release(a, epoch)
	for i := range 1000 {
		if kept, _ := tab.add(fmt.Sprint(i), addrs("4.4.4.4"), expires, epoch); kept != 1 {
			t.Fatalf("after release: got %d recorded, want 1", kept)
		}
	}
	checkNames(t, tab)
}

// TestNamesShared gives one address more names than it may have: the one that
// expires first goes, but none that a flow holds.
func TestNamesShared(t *testing.T) {
	t.Parallel()
	tab := newNameTable(Limits{Names: 10, Pairs: 100, AddrsPerName: 64, NamesPerAddr: 3})
	addr := netip.MustParseAddr("1.1.1.1")
	for _, s := range []struct {
		name  string
		lives time.Duration
		hold  bool
		want  string // kept, evicted, names
	}{
		{"a", 4 * time.Hour, false, "1 0 a"},
		{"b", 2 * time.Hour, true, "1 0 a b"},
		{"c", 3 * time.Hour, false, "1 0 a b c"},
		{"d", 5 * time.Hour, true, "1 1 a b d"}, // b would be next, but is held
		{"a", 9 * time.Hour, false, "1 0 a b d"},
		{"e", 6 * time.Hour, true, "1 1 b d e"},
		{"f", 7 * time.Hour, false, "0 0 b d e"}, // all are held: not given to the guest
	} {
		kept, evicted := tab.add(s.name, []netip.Addr{addr}, epoch.Add(s.lives), epoch)
		if got := fmt.Sprint(kept, " ", evicted, " ", live(tab, "1.1.1.1", epoch)); got != s.want {
			t.Errorf("%s: got %s, want %s", s.name, got, s.want)
		}
		if s.hold {
			tab.hold(addr, []string{s.name}, epoch)
		}
		checkNames(t, tab)
	}
}

// checkNames fails if the table breaks one of its invariants.
func checkNames(t rapid.TB, tab *nameTable) {
	t.Helper()
	pairs, unheld := 0, 0
	for name, n := range tab.byName {
		held := 0
		for _, p := range n.pairs {
			pairs++
			if p.held > 0 {
				held++
			} else if unheld++; p.index < 0 || tab.expiry[p.index] != p {
				t.Fatalf("%s %v isn't where it should be in expiry", name, p.addr)
			}
			found := false
			for q := tab.byAddr[p.addr].newest; q != nil; q = q.next {
				found = found || q == p
			}
			if !found || p.owner != n {
				t.Fatalf("%s %v isn't in the list of its address", name, p.addr)
			}
		}
		idle := tab.idle.Find(name) != nil
		if held != n.held || idle != (held == 0) || len(n.pairs) == 0 || len(n.pairs) > tab.maxAddrs {
			t.Fatalf("%s: %d pairs, %d held, counted %d, idle %t", name, len(n.pairs), held, n.held, idle)
		}
	}
	lists := 0
	for addr, at := range tab.byAddr {
		shared := 0
		for prev, p := (*namePair)(nil), at.newest; p != nil; prev, p = p, p.next {
			if shared++; p.prev != prev || p.addr != addr {
				t.Fatalf("%v: list is broken at %s", addr, p.owner.name)
			}
		}
		if lists += shared; shared != at.pairs || shared == 0 || shared > tab.maxShared {
			t.Fatalf("%v: %d names, counted %d", addr, shared, at.pairs)
		}
	}
	if pairs != tab.pairs || lists != pairs || unheld != len(tab.expiry) || pairs > tab.maxPairs || len(tab.byName) > tab.maxNames {
		t.Fatalf("%d pairs, counted %d, in lists %d; %d unheld, in expiry %d; %d names", pairs, tab.pairs, lists, unheld, len(tab.expiry), len(tab.byName))
	}
}

// slowNames is the table in its most obvious form: a list. Its limits are never
// reached in the model test, whose table is large enough.
type slowNames []*slowPair

type slowPair struct {
	name    string
	addr    netip.Addr
	expires time.Time
	held    int
}

func (s *slowNames) live(addr netip.Addr, now time.Time) []string {
	var names []string
	for _, p := range *s {
		if p.addr == addr && (p.held > 0 || now.Before(p.expires)) {
			names = append(names, p.name)
		}
	}
	slices.Sort(names)
	return names
}

func (s *slowNames) pair(name string, addr netip.Addr, now time.Time) *slowPair {
	for _, p := range *s {
		if p.name == name && p.addr == addr && (p.held > 0 || now.Before(p.expires)) {
			return p
		}
	}
	return nil
}

// TestNamesModel compares the table with the list over random histories, and
// with its bounds over others.
func TestNamesModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		small := rapid.Bool().Draw(t, "small")
		tab := newNameTable(Limits{Names: 1000, Pairs: 10000, AddrsPerName: 1000, NamesPerAddr: 1000})
		if small {
			tab = newNameTable(Limits{Names: 3, Pairs: 6, AddrsPerName: 2, NamesPerAddr: 3})
		}
		var model slowNames
		type holding struct {
			pairs []*namePair
			slow  []*slowPair
		}
		var holdings []holding
		now := epoch
		name := rapid.SampledFrom([]string{"a", "b", "c", "d", "e"})
		addr := rapid.SampledFrom(addrs("1.1.1.1 2.2.2.2 3.3.3.3 4.4.4.4 ::1"))
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				n, list := name.Draw(t, "name"), rapid.SliceOfNDistinct(addr, 1, 4, rapid.ID).Draw(t, "addrs")
				expires := now.Add(time.Duration(rapid.IntRange(1, 100).Draw(t, "ttl")) * time.Second)
				kept, _ := tab.add(n, list, expires, now)
				for _, a := range list[:kept] {
					if !slices.Contains(tab.appendNames(nil, a, now), n) {
						t.Fatalf("%s %v recorded but not there", n, a)
					}
				}
				for _, a := range list {
					if p := model.pair(n, a, now); p == nil {
						model = append(model, &slowPair{name: n, addr: a, expires: expires})
					} else if expires.After(p.expires) {
						p.expires = expires
					}
				}
			},
			"hold": func(t *rapid.T) {
				a := addr.Draw(t, "addr")
				names := tab.appendNames(nil, a, now)
				if len(names) > 0 && rapid.Bool().Draw(t, "one") {
					names = names[:1]
				}
				h := holding{pairs: tab.hold(a, names, now)}
				for _, n := range names {
					if p := model.pair(n, a, now); p != nil {
						p.held++
						h.slow = append(h.slow, p)
					}
				}
				holdings = append(holdings, h)
			},
			"release": func(t *rapid.T) {
				if len(holdings) == 0 {
					t.Skip("nothing held")
				}
				i := rapid.IntRange(0, len(holdings)-1).Draw(t, "which")
				tab.release(holdings[i].pairs, now)
				for _, p := range holdings[i].slow {
					if p.held--; p.held == 0 && p.expires.Before(now.Add(nameGrace)) {
						p.expires = now.Add(nameGrace)
					}
				}
				holdings = slices.Delete(holdings, i, i+1)
			},
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 900).Draw(t, "seconds")) * time.Second)
			},
			"": func(t *rapid.T) {
				checkNames(t, tab)
				for _, a := range addrs("1.1.1.1 2.2.2.2 3.3.3.3 4.4.4.4 ::1") {
					got := tab.appendNames(nil, a, now)
					slices.Sort(got)
					want := model.live(a, now)
					if !small && !slices.Equal(got, want) {
						t.Fatalf("%v: got %q, want %q", a, got, want)
					}
					for _, n := range got {
						if !slices.Contains(want, n) {
							t.Fatalf("%v: got %q, of which %q was never answered or is over", a, got, n)
						}
					}
				}
			},
		})
	})
}

// TestNamesUnderFlood asks for ever new names, and for one name with ever new
// addresses.
func TestNamesUnderFlood(t *testing.T) {
	t.Parallel()
	l := Limits{}.withDefaults()
	tab := newNameTable(l)
	now := epoch
	for i := range 20_000 {
		now = now.Add(5 * time.Millisecond)
		a := netip.AddrFrom4([4]byte{93, byte(i >> 16), byte(i >> 8), byte(i)})
		tab.add(fmt.Sprintf("n%d.evil.example", i), []netip.Addr{a, a.Next(), a.Next().Next()}, now.Add(nameGrace), now)
		tab.add("one.evil.example", []netip.Addr{a}, now.Add(nameGrace), now)
	}
	checkNames(t, tab)
	if len(tab.byName) != l.Names {
		t.Errorf("got %d names, want %d", len(tab.byName), l.Names)
	}
}

func TestAppendNamesAllocs(t *testing.T) {
	tab := newNameTable(Limits{Names: 100, Pairs: 100, AddrsPerName: 64, NamesPerAddr: 100})
	for _, name := range []string{"a", "b", "c"} {
		tab.add(name, addrs("1.1.1.1"), epoch.Add(time.Hour), epoch)
	}
	dst, addr := make([]string, 0, 8), netip.MustParseAddr("1.1.1.1")
	if n := testing.AllocsPerRun(100, func() { dst = tab.appendNames(dst[:0], addr, epoch) }); n != 0 || len(dst) != 3 {
		t.Errorf("got %v allocations and %q, want none and three names", n, dst)
	}
}
