//go:build !darwin || !cgo

package vz

import (
	"errors"
	"fmt"
	"runtime"
)

// newFramework returns one that nothing can be made with.
func newFramework() framework { return noFramework{} }

// noFramework is what a program has that can't call Virtualization.framework.
type noFramework struct{}

func (noFramework) limits() (limits, error)             { return limits{}, errPlatform() }
func (noFramework) create(plan) (virtualMachine, error) { return nil, errPlatform() }

// errPlatform says why there is no framework.
func errPlatform() error {
	if runtime.GOOS == "darwin" {
		return &unusableError{errors.New("this program was built without cgo, and can't call Virtualization.framework"), "build with CGO_ENABLED=1 on a Mac, or set SLUICE_EXECUTABLE to a sluice that was"}
	}
	return &unusableError{fmt.Errorf("there is no Virtualization.framework on %s", runtime.GOOS), "use a Mac with macOS 13 or later"}
}
