//go:build !linux && !darwin

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
)

// rootDir is where a sandbox's process works. See process_linux.go.
const rootDir = ""

var errPlatform = fmt.Errorf("sandbox: no sandboxes on %s: %w", runtime.GOOS, errors.ErrUnsupported)

func executable(string) (string, error)       { return "", errPlatform }
func processAttributes() *syscall.SysProcAttr { return nil }
func holdThread(<-chan struct{})              {}
func prepareProcess() error                   { return errPlatform }
func socketPair() (*os.File, *os.File, error) { return nil, nil, errPlatform }
