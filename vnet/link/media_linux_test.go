package link

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func platformMedia() []medium {
	return append(unixMedia(), medium{name: "tap over a socket", open: openTAPSocket, header: true})
}

// openTAPSocket is the TAP format without a TAP, and so without root.
func openTAPSocket(t testing.TB, cfg Config) (ours, guests Link) {
	t.Helper()
	fds, err := socketpair(unix.SOCK_SEQPACKET)
	must(t, err)
	must(t, setBuffers(fds[0], Datagram))
	must(t, setBuffers(fds[1], Datagram))
	ours, err = cfg.Open(os.NewFile(uintptr(fds[0]), "ours"), TAP)
	must(t, err)
	guests, err = Open(os.NewFile(uintptr(fds[1]), "guests"), TAP)
	must(t, err)
	return ours, guests
}
