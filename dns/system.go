package dns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"
)

// A loader finds out which upstreams to ask.
type loader func(ctx context.Context) (upstreams, error)

// Each platform's file defines hostLoader, which returns the loader of the
// host's own resolvers and how often it is worth calling while there are
// queries.
var _ func() (loader, time.Duration) = hostLoader

// maxResolvConf bounds what is read of a resolv.conf, in bytes.
const maxResolvConf = 64 << 10

// resolvConf is a host that is configured by resolv.conf(5). The file is read
// anew each time, by its name: programs replace it by renaming another over it.
type resolvConf struct {
	path string
	// uplinks is the file in which systemd-resolved tells whom it asks. Where
	// resolv.conf names its stub we ask the stub, since only it knows which
	// link's servers are for which domain; but when the servers behind it
	// change, what they said before may be wrong.
	uplinks string
}

// load reads the file.
func (r resolvConf) load(context.Context) (upstreams, error) {
	text, err := readSmall(r.path)
	if err != nil {
		return upstreams{}, fmt.Errorf("read the host's resolvers: %w", err)
	}
	u := upstreams{servers: parseResolvConf(text)}
	for _, s := range u.servers {
		if isSystemdStub(s.Addr()) {
			// A host without the file has another resolver at that address.
			u.beyond, _ = readSmall(r.uplinks)
		}
	}
	return u, nil
}

// isSystemdStub reports whether addr is one of systemd-resolved's two:
// systemd-resolved.service(8).
func isSystemdStub(addr netip.Addr) bool {
	return addr == netip.AddrFrom4([4]byte{127, 0, 0, 53}) || addr == netip.AddrFrom4([4]byte{127, 0, 0, 54})
}

// readSmall returns the file's content, at most maxResolvConf bytes of it.
func readSmall(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxResolvConf))
	return string(text), err
}

// scutil is a host that is configured by macOS's configd. Its resolv.conf is
// only a shadow of that: without the resolvers that a VPN brings for its domains.
type scutil struct {
	run func(ctx context.Context) ([]byte, error) // prints the configuration
}

// errNoResolver is what a host without resolvers gives.
var errNoResolver = errors.New("the host has no resolver")

// load asks configd.
func (s scutil) load(ctx context.Context) (upstreams, error) {
	text, err := s.run(ctx)
	if err != nil {
		return upstreams{}, fmt.Errorf("read the host's resolvers: %w", err)
	}
	u := parseScutil(string(text))
	if len(u.servers) == 0 && len(u.domains) == 0 {
		return u, errNoResolver
	}
	return u, nil
}
