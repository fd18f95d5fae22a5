package seccomp

import "golang.org/x/sys/unix"

// auditArch is the architecture whose numbers a filter is made of.
const auditArch = unix.AUDIT_ARCH_X86_64

// refusedHere are the refused calls that only this architecture has.
var refusedHere = []uint32{
	unix.SYS_IOPL, unix.SYS_IOPERM, unix.SYS_USELIB, unix.SYS_CREATE_MODULE, unix.SYS_QUERY_MODULE,
	unix.SYS_GET_KERNEL_SYMS, unix.SYS__SYSCTL, unix.SYS_SYSFS, unix.SYS_MODIFY_LDT,
}
