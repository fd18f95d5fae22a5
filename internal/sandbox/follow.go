package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"sync"
	"time"

	"github.com/sluicenet/sluice/dns"
	"github.com/sluicenet/sluice/policy"
)

// follow starts what keeps the sandbox's picture of its host true: routes and
// addresses, and the blocks of other sandboxes.
func (s *Sandbox) follow() error {
	ctx, cancel := context.WithCancel(context.Background()) // ends with the sandbox
	s.unfollow = cancel
	changed := make(chan struct{}, 1)
	notify := func() {
		select {
		case changed <- struct{}{}:
		default: // the look that is due will see this change too
		}
	}
	if err := s.watch(ctx, notify); err != nil {
		return err
	}
	s.followers.Go(func() { s.refresh(ctx, changed) })
	// What changed between the first look and the watch is seen now.
	notify()
	return nil
}

// watch has notify called when the host's network or a block may have changed.
func (s *Sandbox) watch(ctx context.Context, notify func()) error {
	routes, err := watchHostNet(ctx, notify)
	if err != nil {
		return err
	}
	s.followers.Go(func() { <-routes })
	blocks, err := watchDir(ctx, s.dirs.blocks(), notify)
	if err != nil {
		return err
	}
	s.followers.Go(func() { <-blocks })
	return nil
}

// refresh looks again whenever something may have changed, and tells when the
// guest's card is gone. It owns discovering.
func (s *Sandbox) refresh(ctx context.Context, changed <-chan struct{}) {
	discovered := make(chan dns.Discovery, 1)
	var discovering sync.WaitGroup
	defer discovering.Wait()
	discover := func() { discovering.Go(func() { s.discover(ctx, discovered) }) }
	discover()
	gone := s.network.Done()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-gone:
			gone = nil
			if err := s.network.Err(); err != nil {
				s.warn("the guest's network card is cut off: " + err.Error())
			}
		case <-changed:
			var moved bool
			if moved, err = s.look(ctx); moved {
				discover()
			}
		case d := <-discovered:
			err = s.learn(d)
		}
		if err != nil && ctx.Err() == nil {
			s.log.Warn("follow the host's network", "error", err)
		}
	}
}

// discover asks the resolvers what network this is. A network that doesn't
// answer has nothing to say.
func (s *Sandbox) discover(ctx context.Context, discovered chan<- dns.Discovery) {
	d, err := s.resolver.Discover(ctx)
	if err != nil {
		return
	}
	select {
	case discovered <- d:
	case <-ctx.Done():
	}
}

// learn acts on what the resolvers revealed.
func (s *Sandbox) learn(d dns.Discovery) error {
	if d.FakeIP && !s.fakeIP {
		s.fakeIP = true
		s.warn("the resolver answers addresses of 198.18.0.0/15, which a proxy on this host makes up and no policy counts as public: add the rule `allow 198.18.0.0/15`, or give other nameservers")
	}
	s.mu.Lock()
	s.nat64 = d.NAT64
	s.mu.Unlock()
	return s.tell()
}

// warn records a warning.
func (s *Sandbox) warn(message string) {
	s.events.emit(record{Type: typeWarning, Time: time.Now(), Message: message})
}

// configureTime bounds how long the guest may take to change its routes.
const configureTime = 5 * time.Second

// look reads the host's network again and passes on what changed. It reports
// whether the host itself has.
func (s *Sandbox) look(ctx context.Context) (moved bool, err error) {
	next, err := s.readHost(ctx)
	if err != nil {
		return false, err
	}
	s.mu.Lock()
	last := s.host
	s.host = next
	s.mu.Unlock()
	if err := s.tell(); err != nil || last.equal(next) {
		return false, err
	}
	s.reach.reset(next)
	s.resolver.Flush() // over another way names may have other addresses
	if last.unusable() == next.unusable() {
		return true, nil
	}
	ctx, cancel := context.WithTimeout(ctx, configureTime)
	defer cancel()
	return true, errors.Join(s.network.SetUnusable(next.unusable()), s.agent.Configure(ctx, s.guestNetwork()))
}

// tell tells network and resolver what the classifier needs, if that is news:
// each telling is a generation of the policy.
func (s *Sandbox) tell() error {
	host, err := s.policyHost()
	if err != nil {
		return err
	}
	s.mu.Lock()
	news := !reflect.DeepEqual(host, s.told)
	s.told = host
	s.mu.Unlock()
	if news {
		s.setRules(func() {
			s.network.SetHost(host)
			s.resolver.SetHost(host)
		})
	}
	return nil
}

// readHost reads the host's network and adds whom the resolver asks.
func (s *Sandbox) readHost(ctx context.Context) (hostNet, error) {
	h, err := readHostNet()
	if err != nil {
		return hostNet{}, err
	}
	configured := s.cfg.Network.Nameservers
	for _, n := range configured {
		if n.Addr.IsValid() {
			h.nameservers = append(h.nameservers, n.Addr)
		}
	}
	if len(configured) > 0 {
		return h, nil
	}
	// A host without resolvers still has addresses; the resolver says the rest.
	h.nameservers, _ = dns.HostServers(ctx)
	return h, nil
}

// hostNet returns the host's network as last read.
func (s *Sandbox) hostNet() hostNet {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.host
}

// policyHost returns what the classifier needs, as of now.
func (s *Sandbox) policyHost() (*policy.Host, error) {
	b := s.block.block
	others, err := s.dirs.heldBlocks(b)
	if err != nil && others == nil {
		return nil, fmt.Errorf("look for other sandboxes: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return &policy.Host{
		Gateways: []netip.Addr{b.Gateway4, b.Gateway6},
		Blocks:   []netip.Prefix{b.Prefix4, b.Prefix6},
		Others:   others,
		Addrs:    s.host.addrs,
		Ranges:   s.host.local,
		NAT64:    s.nat64,
	}, nil
}

// usable reports whether the host has a way to an address, which its own always
// are.
func (s *Sandbox) usable(a netip.Addr) bool {
	b := s.block.block
	return a == b.Gateway4 || a == b.Gateway6 || s.reach.usable(a)
}
