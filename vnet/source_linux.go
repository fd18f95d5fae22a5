package vnet

import "golang.org/x/sys/unix"

// ioctlWaiting asks how many bytes wait in a socket (SIOCINQ, tcp(7)).
const ioctlWaiting = unix.TIOCINQ
