package vnet

// ioctlWaiting asks how many bytes wait in a socket: FIONREAD of
// <sys/filio.h>, _IOR('f', 127, int).
const ioctlWaiting = 0x4004667f
