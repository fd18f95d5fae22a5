package sandbox

import (
	"context"

	"github.com/sluicenet/sluice/internal/control"
)

// An Embedded is a sandbox that runs in the process of its creator. Its methods
// may be called by several goroutines.
type Embedded struct{ s *Sandbox }

// Embed starts a sandbox in this process. ctx governs the start only. The error
// is a *[control.Failure] where the sandbox said why.
func Embed(ctx context.Context, spec control.Spec, opts Options) (*Embedded, error) {
	s, err := start(ctx, spec, opts)
	if err != nil {
		if ctx.Err() != nil {
			return nil, control.Cause(ctx)
		}
		return nil, err
	}
	s.run()
	return &Embedded{s}, nil
}

// Ready returns what the sandbox is and where it serves.
func (e *Embedded) Ready() control.Ready {
	return control.Ready{Socket: e.s.claim.socket, Info: e.s.info}
}

// Exited is closed when the sandbox has ended and nothing of it is left.
func (e *Embedded) Exited() <-chan struct{} { return e.s.done }

// Ended returns how the sandbox ended. It is valid once Exited is closed.
func (e *Embedded) Ended() *control.Ended { return &e.s.ended }

// Close ends the sandbox and waits for its end. It is idempotent.
func (e *Embedded) Close() error {
	e.s.end(control.SourceCreator)
	<-e.s.done
	return nil
}
