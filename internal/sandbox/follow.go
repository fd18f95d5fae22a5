package sandbox

import (
	"context"
	"errors"
	"net/netip"
	"reflect"
	"time"

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
// guest's card is gone.
func (s *Sandbox) refresh(ctx context.Context, changed <-chan struct{}) {
	gone := s.network.Done()
	for {
		select {
		case <-ctx.Done():
			return
		case <-gone:
			gone = nil
			if err := s.network.Err(); err != nil {
				s.events.emit(record{Type: typeWarning, Time: time.Now(), Message: "the guest's network card is cut off: " + err.Error()})
			}
		case <-changed:
			if err := s.look(ctx); err != nil && ctx.Err() == nil {
				s.log.Warn("follow the host's network", "error", err)
			}
		}
	}
}

// configureTime bounds how long the guest may take to change its routes.
const configureTime = 5 * time.Second

// look reads the host's network again and passes on what changed.
func (s *Sandbox) look(ctx context.Context) error {
	next, err := s.readHost()
	if err != nil {
		return err
	}
	s.mu.Lock()
	last := s.host
	s.host = next
	s.mu.Unlock()
	host, err := s.policyHost()
	if err != nil {
		return err
	}
	s.mu.Lock()
	news := !reflect.DeepEqual(host, s.told)
	s.told = host
	s.mu.Unlock()
	if news {
		s.network.SetHost(host)
		s.resolver.SetHost(host)
	}
	if last.equal(next) {
		return nil
	}
	s.resolver.Flush() // over another way names may have other addresses
	if last.usable4 == next.usable4 && last.usable6 == next.usable6 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, configureTime)
	defer cancel()
	return s.agent.Configure(ctx, s.guestNetwork())
}

// readHost reads the host's network and adds whom the resolver asks.
func (s *Sandbox) readHost() (hostNet, error) {
	h, err := readHostNet()
	if err != nil {
		return hostNet{}, err
	}
	for _, n := range s.cfg.Network.Nameservers {
		if n.Addr.IsValid() {
			h.nameservers = append(h.nameservers, n.Addr)
		}
	}
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
	others, err := s.dirs.heldBlocks(s.block.block)
	if err != nil && others == nil {
		return nil, errors.Join(errors.New("look for other sandboxes"), err)
	}
	return s.hostNet().policyHost(s.block.block, others), nil
}

// usable reports whether the host has a way to an address: its family is usable,
// or the address is the host's own.
func (s *Sandbox) usable(a netip.Addr) bool {
	block := s.block.block
	if a == block.Gateway4 || a == block.Gateway6 {
		return true
	}
	h := s.hostNet()
	if a.Is4() {
		return h.usable4
	}
	return h.usable6
}
