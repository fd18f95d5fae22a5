//go:build linux || darwin

package link

import (
	"os"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// unixMedia are the formats over what Pair makes, and datagrams as macOS has
// them.
func unixMedia() []medium {
	deaf := runtime.GOOS == "linux"
	return []medium{
		{name: "stream", open: func(t testing.TB, cfg Config) (Link, Link) { return openPair(t, cfg, Stream) }},
		{name: "datagram", open: func(t testing.TB, cfg Config) (Link, Link) { return openPair(t, cfg, Datagram) }, deaf: deaf},
		{name: "datagram, one by one", open: openOneByOne, deaf: deaf},
		{name: "datagram, batches refused", open: openRefused, deaf: deaf},
	}
}

func openPair(t testing.TB, cfg Config, format Format) (ours, guests Link) {
	t.Helper()
	a, b, err := Pair(format)
	must(t, err)
	ours, err = cfg.Open(a, format)
	must(t, err)
	guests, err = guestConfig.Open(b, format)
	must(t, err)
	return ours, guests
}

// openOneByOne opens datagram links without the platform's batches.
func openOneByOne(t testing.TB, cfg Config) (ours, guests Link) {
	return openChanged(t, cfg, func(d *datagram, cfg Config) {
		var err error
		d.in, err = newSingleReader(d.file, d, cfg)
		must(t, err)
		d.send = oneByOne{}
	})
}

// openRefused opens datagram links on a system that says at the first batch that it
// has no such call.
func openRefused(t testing.TB, cfg Config) (ours, guests Link) {
	refuse := func(uintptr, []batchMessage) (int, syscall.Errno) { return 0, unix.ENOSYS }
	return openChanged(t, cfg, func(d *datagram, cfg Config) {
		in, send, err := batches(d.file, d, cfg)
		must(t, err)
		in.(*batchReader).receive, send.(*batchSender).transmit = refuse, refuse
		d.in, d.send = in, send
	})
}

// openChanged opens datagram links with what change puts in for the platform's part.
func openChanged(t testing.TB, cfg Config, change func(*datagram, Config)) (ours, guests Link) {
	t.Helper()
	a, b, err := Pair(Datagram)
	must(t, err)
	open := func(f *os.File, cfg Config) Link {
		f, err := adopt(f)
		must(t, err)
		d, err := newDatagram(f, cfg)
		must(t, err)
		change(d, cfg)
		d.out.start()
		return d
	}
	return open(a, cfg), open(b, guestConfig)
}

// outboxOf returns l's outbox; nil if it has none.
func outboxOf(l Link) *outbox {
	switch l := l.(type) {
	case *stream:
		return &l.out
	case *datagram:
		return &l.out
	}
	return nil
}
