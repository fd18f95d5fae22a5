package dns

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// serving returns upstreams with one server.
func serving(addr string) upstreams {
	return upstreams{servers: []netip.AddrPort{netip.MustParseAddrPort(addr)}}
}

func TestFollower(t *testing.T) {
	t.Parallel()
	errGone := errors.New("file is gone")
	var next upstreams
	var fail error
	loads := 0
	f := &follower{every: 10 * time.Second, load: func(context.Context) (upstreams, error) {
		loads++
		return next, fail
	}}
	for i, tt := range []struct {
		after   time.Duration
		next    upstreams
		fail    error
		want    string
		err     error
		changed bool
		broke   bool
		loads   int
	}{
		{0, upstreams{}, errGone, "", errGone, false, true, 1},
		{500 * time.Millisecond, serving("10.0.0.1:53"), nil, "", errGone, false, false, 1}, // too early
		{time.Second, serving("10.0.0.1:53"), nil, "10.0.0.1:53", nil, true, false, 2},
		{10 * time.Second, serving("10.0.0.2:53"), nil, "10.0.0.1:53", nil, false, false, 2},
		{11 * time.Second, serving("10.0.0.2:53"), nil, "10.0.0.2:53", nil, true, false, 3},
		{21 * time.Second, serving("10.0.0.2:53"), nil, "10.0.0.2:53", nil, false, false, 4},
		{31 * time.Second, upstreams{}, errGone, "10.0.0.2:53", errGone, false, true, 5}, // the old ones stay
		{32 * time.Second, upstreams{}, errGone, "10.0.0.2:53", errGone, false, false, 6},
		{33 * time.Second, serving("10.0.0.2:53"), nil, "10.0.0.2:53", nil, false, false, 7},
	} {
		next, fail = tt.next, tt.fail
		due := f.isDue(epoch.Add(tt.after))
		was := loads
		got := f.get(t.Context(), epoch.Add(tt.after))
		if serversOf(got.upstreams) != tt.want || !errors.Is(got.err, tt.err) || got.changed != tt.changed || got.broke != tt.broke || loads != tt.loads || due != (loads > was) {
			t.Errorf("row %d: got %+v after %d loads, due %t, want %+v", i, got, loads, due, tt)
		}
	}
	f.expire()
	if f.get(t.Context(), epoch.Add(33*time.Second)); loads != 8 {
		t.Errorf("expired: got %d loads, want 8", loads)
	}
}

// TestFollowerLoadsOnce lets many ask while one load runs: they wait for it, but
// not longer than they want to.
func TestFollowerLoadsOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		loads := 0
		f := &follower{every: time.Hour, load: func(context.Context) (upstreams, error) {
			loads++
			time.Sleep(time.Second)
			return serving("10.0.0.1:53"), nil
		}}
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if got := serversOf(f.get(t.Context(), time.Now()).upstreams); got != "10.0.0.1:53" {
					t.Errorf("got %s", got)
				}
			})
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if got := f.get(ctx, time.Now()); !errors.Is(got.err, context.DeadlineExceeded) {
			t.Errorf("impatient: got %+v", got)
		}
		if f.isDue(time.Now()) {
			t.Error("a load runs, and another is due")
		}
		wg.Wait()
		if loads != 1 {
			t.Errorf("got %d loads, want 1", loads)
		}
	})
}
