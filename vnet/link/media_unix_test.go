//go:build linux || darwin

package link

import (
	"runtime"
	"testing"
)

// unixMedia are the formats over what Pair makes, and datagrams as macOS has
// them.
func unixMedia() []medium {
	deaf := runtime.GOOS == "linux"
	return []medium{
		{name: "stream", open: func(t testing.TB, cfg Config) (Link, Link) { return openPair(t, cfg, Stream) }},
		{name: "datagram", open: func(t testing.TB, cfg Config) (Link, Link) { return openPair(t, cfg, Datagram) }, deaf: deaf},
		{name: "datagram, one by one", open: openOneByOne, deaf: deaf},
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
	t.Helper()
	a, b, err := Pair(Datagram)
	must(t, err)
	open := func(cfg Config, f *datagram, err error) Link {
		must(t, err)
		f.in, err = newSingleReader(f.file, f, cfg)
		must(t, err)
		f.send = oneByOne{}
		f.out.start()
		return f
	}
	a, err = adopt(a)
	must(t, err)
	b, err = adopt(b)
	must(t, err)
	da, err := newDatagram(a, cfg)
	ours = open(cfg, da, err)
	db, err := newDatagram(b, guestConfig)
	return ours, open(guestConfig, db, err)
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
