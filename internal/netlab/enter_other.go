//go:build !linux

package netlab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
)

var errNoNamespaces = fmt.Errorf("network namespaces on %s: %w", runtime.GOOS, errors.ErrUnsupported)

// enter: see Enter.
func enter() error { return errNoNamespaces }

// startAgent: see agent.go.
func startAgent() (*agent, error) { return nil, errNoNamespaces }

func (*agent) do(context.Context, request) (*os.File, error) { return nil, errNoNamespaces }

func (*agent) close() error { return nil }

// captureLost: see capture.go.
func captureLost(*os.File) (int, error) { return 0, errNoNamespaces }
