//go:build !unix

package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/sluicenet/sluice/hv"
)

var (
	errPlatform = fmt.Errorf("qemu on %s: %w", runtime.GOOS, errors.ErrUnsupported)

	_ hv.Hypervisor = (*Hypervisor)(nil)
)

// Probe reports that guests need a Unix.
func (h *Hypervisor) Probe(context.Context) hv.Report { return hv.Report{Reason: errPlatform.Error()} }

// Start returns an error matching errors.ErrUnsupported.
func (h *Hypervisor) Start(context.Context, hv.Config) (hv.VM, error) { return nil, errPlatform }

// Main ends the process: no guest can have started it.
func Main() { os.Exit(125) }
