package confine

import "golang.org/x/sys/unix"

// refusedHere are the refused calls that only this architecture has.
var refusedHere = []uint32{unix.SYS_FORK, unix.SYS_VFORK, unix.SYS_MKNOD}
