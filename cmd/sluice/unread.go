package main

import (
	"context"
	"sync"
)

// codeUnread is the exit code of what a broken pipe ends: 128 and the number of
// SIGPIPE, by which a write to it would have ended the program.
const codeUnread = 128 + 13

// whileRead returns a context that ends when nobody reads standard output any more,
// which "| head -1" otherwise learns only by the next line, that may never come. stop
// ends the watch, and must be called. The end is an exitError that says nothing.
//
// Per platform:
//
//	newUnreadWatch(f) (watch, error)   watches f
//	watch.wait() bool                  waits until nobody reads f, or the watch is stopped, and reports whether nobody does
//	watch.stop()                       makes wait return
//	watch.close()                      frees it, after wait
func (c *console) whileRead(ctx context.Context) (reading context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	w, err := newUnreadWatch(c.out)
	if err != nil { // then the next line tells
		return ctx, func() { cancel(nil) }
	}
	var watching sync.WaitGroup
	watching.Go(func() {
		if w.wait() {
			cancel(&exitError{code: codeUnread})
		}
	})
	return ctx, func() {
		w.stop()
		watching.Wait()
		w.close()
		cancel(nil)
	}
}
