//go:build !linux

package krun

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/sluicenet/sluice/hv"
)

var errPlatform = fmt.Errorf("libkrun on %s: %w", runtime.GOOS, errors.ErrUnsupported)

// Probe reports that the backend is Linux's. See ADR 11.
func (h *Hypervisor) Probe(context.Context) hv.Report { return hv.Report{Reason: errPlatform.Error()} }

// Start returns an error matching errors.ErrUnsupported.
func (h *Hypervisor) Start(context.Context, hv.Config) (hv.VM, error) { return nil, errPlatform }

// Main ends the process: no VM can be in it.
func Main() { os.Exit(125) }
