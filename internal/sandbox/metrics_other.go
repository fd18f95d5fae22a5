//go:build !linux

package sandbox

import (
	"errors"
	"fmt"
)

// readUsage can't tell. See metrics.go.
func readUsage(int) (usage, error) {
	return usage{}, fmt.Errorf("metrics: %w", errors.ErrUnsupported)
}
