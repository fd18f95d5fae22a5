//go:build !linux && !darwin

package dns

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"
)

// See system.go.
func hostLoader() (loader, time.Duration) {
	return func(context.Context) (upstreams, error) {
		return upstreams{}, fmt.Errorf("follow the host's resolvers on %s: %w; name a nameserver", runtime.GOOS, errors.ErrUnsupported)
	}, time.Hour
}
