//go:build unix && !linux

package qemu

import (
	"os"
	"syscall"
)

// dieWithParent: see supervisor_linux.go. Here only the lifeline ends QEMU.
func dieWithParent() *syscall.SysProcAttr { return nil }

// inOwnSession: see supervisor_linux.go.
func inOwnSession() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// executable is this program.
func executable() (string, error) { return os.Executable() }

// confinesItself reports that QEMU has -sandbox here.
const confinesItself = false
