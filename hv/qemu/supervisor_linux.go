package qemu

import "syscall"

// dieWithParent returns the attributes of a child that the kernel kills when its
// parent's thread is gone.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// inOwnSession returns those of a child that no terminal's signal reaches, and
// that dies with the thread that starts it.
func inOwnSession() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
}

// executable is this program: the link leads to it even where it was deleted.
func executable() (string, error) { return "/proc/self/exe", nil }

// confinesItself reports that QEMU has -sandbox here.
const confinesItself = true
