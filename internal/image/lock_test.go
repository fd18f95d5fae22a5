package image

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestLock(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		held, wanted lockMode
		ok           bool
	}{
		{shared, shared, true},
		{shared, exclusive, false},
		{exclusive, shared, false},
		{exclusive, exclusive, false},
	} {
		path := filepath.Join(workDir(t), "lock")
		first, err := tryLockAt(path, row.held)
		if err != nil {
			t.Fatal(err)
		}
		second, err := tryLockAt(path, row.wanted)
		if (err == nil) != row.ok || err != nil && !errors.Is(err, errHeld) {
			t.Errorf("exclusive %t, then exclusive %t: %v", row.held, row.wanted, err)
		}
		if second != nil {
			second.release()
		}
		for range 2 {
			if err := first.release(); err != nil {
				t.Error(err)
			}
		}
		third, err := tryLockAt(path, exclusive)
		if err != nil {
			t.Errorf("after the release: %v", err)
			continue
		}
		third.release()
	}
}

// TestLockWaits shows that a waiting lock comes when it can, and ends with its
// context.
func TestLockWaits(t *testing.T) {
	t.Parallel()
	path := filepath.Join(workDir(t), "lock")
	held, err := tryLockAt(path, exclusive)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	waited := 0
	if _, err := lockAt(ctx, path, shared, func() { waited++ }); !errors.Is(err, context.DeadlineExceeded) || waited != 1 {
		t.Errorf("%v, told %d times", err, waited)
	}
	got := make(chan error, 1)
	waiting := make(chan struct{})
	go func() {
		l, err := lockAt(t.Context(), path, shared, func() { close(waiting) })
		if err == nil {
			err = l.release()
		}
		got <- err
	}()
	<-waiting
	if err := held.release(); err != nil {
		t.Error(err)
	}
	if err := <-got; err != nil {
		t.Error(err)
	}
}

// TestRemovedLock shows that those who remove the lock's file and those who open
// it never hold it together.
func TestRemovedLock(t *testing.T) {
	t.Parallel()
	path := filepath.Join(workDir(t), "lock")
	var inside atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				l, err := tryLockAt(path, exclusive)
				if errors.Is(err, errHeld) {
					runtime.Gosched()
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d hold it", n)
				}
				runtime.Gosched()
				inside.Add(-1)
				if err := errors.Join(os.Remove(path), l.release()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}
