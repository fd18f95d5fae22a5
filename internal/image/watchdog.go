package image

import (
	"context"
	"fmt"
	"time"
)

// A watchdog cancels work that stands still.
type watchdog struct {
	patience time.Duration
	timer    *time.Timer
}

// newWatchdog returns a watchdog that calls cancel if fed isn't called for as
// long as patience lasts. The caller must stop it.
func newWatchdog(patience time.Duration, cancel context.CancelCauseFunc) *watchdog {
	return &watchdog{patience, time.AfterFunc(patience, func() {
		cancel(fmt.Errorf("nothing came for %v", patience))
	})}
}

// fed says that the work goes on.
func (w *watchdog) fed() { w.timer.Reset(w.patience) }

// stop ends the watch.
func (w *watchdog) stop() { w.timer.Stop() }
