//go:build !linux

package sandbox

import (
	"context"
	"time"
)

// pollInterval is how long a change on the host may go unnoticed.
const pollInterval = 2 * time.Second

// watchHostNet says every now and then that something may have changed. See
// hostNet.
func watchHostNet(ctx context.Context, changed func()) (<-chan struct{}, error) {
	done := make(chan struct{})
	go poll(ctx, changed, done)
	return done, nil
}

// watchDir leaves it to watchHostNet, which has everything looked at.
func watchDir(ctx context.Context, _ string, _ func()) (<-chan struct{}, error) {
	done := make(chan struct{})
	close(done)
	return done, nil
}

func poll(ctx context.Context, changed func(), done chan<- struct{}) {
	defer close(done)
	t := time.NewTicker(pollInterval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			changed()
		}
	}
}
