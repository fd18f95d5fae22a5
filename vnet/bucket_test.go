package vnet

import (
	"math/rand/v2"
	"testing"
	"time"
)

// TestBucket follows a bucket through a few moments, each "at ms: take n".
func TestBucket(t *testing.T) {
	t.Parallel()
	type step struct {
		at   int // ms
		wait int // ms until a token, before taking
		take float64
	}
	tests := []struct {
		name   string
		config Bucket
		steps  []step
	}{
		{"unlimited", Bucket{}, []step{{0, 0, 1e9}, {0, 0, 1e9}}},
		{"full at the start", Bucket{10, time.Second, 0}, []step{{0, 0, 10}, {0, 100, 0}, {100, 0, 1}}},
		{"refilled continuously", Bucket{1000, time.Second, 0}, []step{{0, 0, 1000}, {500, 0, 500}, {500, 1, 0}}},
		{"never above its size", Bucket{10, time.Second, 0}, []step{{9000, 0, 10}, {9000, 100, 0}}},
		{"burst first, once", Bucket{10, time.Second, 5}, []step{{0, 0, 5}, {0, 0, 10}, {0, 100, 0}, {9000, 0, 10}, {9000, 100, 0}}},
		{"a large frame passes and leaves a debt", Bucket{10, time.Second, 0}, []step{{0, 0, 30}, {0, 2100, 0}, {2000, 100, 0}, {2100, 0, 1}}},
		{"time that goes backwards", Bucket{10, time.Second, 0}, []step{{1000, 0, 10}, {0, 100, 0}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			start := time.Unix(1000, 0)
			b := newBucket(tt.config, start)
			for i, s := range tt.steps {
				wait := b.wait(start.Add(time.Duration(s.at) * time.Millisecond))
				if got := int(wait.Round(time.Millisecond) / time.Millisecond); got != s.wait {
					t.Errorf("step %d: wait %v, want %d ms", i, wait, s.wait)
				}
				b.take(s.take)
			}
		})
	}
}

// TestBucketRate checks that, however it is used, a bucket never passes more
// than its burst, its size and what has accrued, plus one frame.
func TestBucketRate(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		c := Bucket{Size: 1 + r.Uint64N(100_000), Refill: time.Millisecond + time.Duration(r.Int64N(int64(time.Second))), Burst: r.Uint64N(10_000)}
		start := time.Unix(0, 0)
		now, passed, largest := start, 0.0, 0.0
		for b := newBucket(c, start); now.Sub(start) < 10*c.Refill; {
			if w := b.wait(now); w > 0 {
				now = now.Add(w)
				continue
			}
			n := float64(1 + r.IntN(70_000))
			largest = max(largest, n)
			b.take(n)
			passed += n
		}
		allowed := float64(c.Burst+c.Size) + now.Sub(start).Seconds()*float64(c.Size)/c.Refill.Seconds()
		if passed > allowed+largest {
			t.Fatalf("%+v: passed %.0f in %v, allowed %.0f", c, passed, now.Sub(start), allowed)
		}
		if passed < allowed-float64(c.Burst+c.Size)-largest {
			t.Fatalf("%+v: passed only %.0f in %v, allowed %.0f", c, passed, now.Sub(start), allowed)
		}
	}
}
