package dns

import (
	"fmt"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

// keyOf returns the cache's key for q.
func keyOf(q *query) cacheKey {
	return cacheKey{name: string(appendText(nil, q.wire())), qtype: q.qtype, do: q.do, cd: q.cd}
}

func TestCache(t *testing.T) {
	t.Parallel()
	c := newCache(100, 1<<20)
	a, err := said(t, "www.a A", 0, "www.a. 60 IN A 93.184.1.1")
	if err != nil {
		t.Fatal(err)
	}
	q := parsed(t, "www.a A")
	c.put(keyOf(q), a)
	change := func(f func(*query)) *query { other := *q; f(&other); return &other }
	for _, tt := range []struct {
		name  string
		q     *query
		after time.Duration
		want  bool
	}{
		{"same", q, 0, true},
		{"other case", parsed(t, "WWW.A A"), 0, true},
		{"just before its end", q, 60*time.Second - 1, true},
		{"at its end", q, 60 * time.Second, false},
		{"other type", change(func(q *query) { q.qtype = mdns.TypeAAAA }), 0, false},
		{"other name", parsed(t, "ww.a A"), 0, false},
		{"DO", change(func(q *query) { q.do = true }), 0, false},
		{"CD", change(func(q *query) { q.cd = true }), 0, false},
		{"without EDNS", change(func(q *query) { q.edns = false }), 0, true},
	} {
		if got := c.get(appendText(nil, tt.q.wire()), tt.q, epoch.Add(tt.after)) != nil; got != tt.want {
			t.Errorf("%s: got %t, want %t", tt.name, got, tt.want)
		}
	}
	c.flush()
	if c.get([]byte("www.a"), q, epoch) != nil || c.bytes != 0 {
		t.Error("an answer survived flush")
	}
}

func TestCacheBounds(t *testing.T) {
	t.Parallel()
	fill := func(c *cache, n int, lines func(i int) []string) {
		for i := range n {
			name := fmt.Sprintf("n%d.a", i)
			a, err := said(t, name+" A", 0, lines(i)...)
			if err != nil {
				t.Fatal(err)
			}
			c.put(keyOf(parsed(t, name+" A")), a)
			if c.bytes > c.maxBytes || c.answers.Len() > max(c.maxEntries, 0) {
				t.Fatalf("after %d: %d bytes, %d entries", i, c.bytes, c.answers.Len())
			}
		}
	}
	one := func(i int) []string { return []string{fmt.Sprintf("n%d.a. 60 IN A 93.184.1.1", i)} }
	few := newCache(10, 1<<20)
	fill(few, 100, one)
	fill(few, 100, one) // puts over what is there
	if few.answers.Len() != 10 {
		t.Errorf("ten entries: got %d", few.answers.Len())
	}
	small := newCache(1000, 16<<10)
	fill(small, 100, one)
	if n := small.answers.Len(); n < 10 || n > 32 {
		t.Errorf("16 KiB: got %d entries", n)
	}
	none := newCache(-1, 1<<20)
	fill(none, 10, one)
	fill(few, 1, func(int) []string { return []string{"n0.a. 0 IN A 93.184.1.1"} })
	large := newCache(1000, 16<<10)
	fill(large, 1, func(int) []string { return manyAddresses("n0.a.", 200) })
	if large.answers.Len() != 0 {
		t.Error("an answer larger than a sixteenth of the cache was kept")
	}
	sum := 0
	for e := range few.answers.All {
		sum += e.Value.memory()
	}
	if sum != few.bytes {
		t.Errorf("counted %d bytes, holds %d", few.bytes, sum)
	}
}

// manyAddresses returns n A records of name.
func manyAddresses(name string, n int) []string {
	var lines []string
	for i := range n {
		lines = append(lines, fmt.Sprintf("%s 60 IN A 93.184.%d.%d", name, i/250, i%250+1))
	}
	return lines
}
