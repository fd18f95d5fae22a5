package krun

import (
	"context"
	"runtime"

	"github.com/sluicenet/sluice/internal/guest"
)

// findAgent returns an executable that is a guest's process 1.
func findAgent(ctx context.Context) (string, error) { return guest.Executable(ctx, runtime.GOARCH) }
