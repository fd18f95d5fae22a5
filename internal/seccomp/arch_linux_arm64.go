package seccomp

import "golang.org/x/sys/unix"

// auditArch is the architecture whose numbers a filter is made of.
const auditArch = unix.AUDIT_ARCH_AARCH64

// refusedHere are the refused calls that only this architecture has.
var refusedHere []uint32
