package sandbox

import (
	"context"
	"io"
	"os"
	"sync"

	"github.com/sluicenet/sluice/internal/control"
)

// A leash binds a sandbox's process to its creator: the process ends when the
// creator does, however that dies, until the leash is cut. Its methods may be
// called by several goroutines.
//
// The lifeline is the means everywhere. holdThread, per platform, is a second
// one where there is any: a signal from the system when the creator's thread
// ends. It returns when until is closed.
type leash struct {
	once  sync.Once
	freed chan struct{} // closed by cut
	let   chan struct{} // closed by hold when the system sends no signal any more
}

// newLeash returns a leash that ends the context of end when the other end of
// the lifeline is closed. Its goroutines live as long as the process, unless it
// is cut.
func newLeash(lifeline *os.File, end context.CancelCauseFunc) *leash {
	l := &leash{freed: make(chan struct{}), let: make(chan struct{})}
	go l.watch(lifeline, end)
	go l.hold()
	return l
}

// hold keeps the second means until the leash is cut.
func (l *leash) hold() {
	defer close(l.let)
	holdThread(l.freed)
}

// watch waits for the last copy of the lifeline's other end to be closed.
func (l *leash) watch(lifeline *os.File, end context.CancelCauseFunc) {
	_, _ = io.Copy(io.Discard, lifeline) // nobody writes
	select {
	case <-l.freed:
	default:
		end(endReason(control.SourceCreator))
	}
}

// cut lets the process outlive its creator, who may end as soon as it returns. It
// is idempotent.
func (l *leash) cut() {
	l.once.Do(func() { close(l.freed) })
	<-l.let
}
