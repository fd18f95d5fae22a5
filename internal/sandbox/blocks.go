package sandbox

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sluicenet/sluice/vnet"
)

// A blockClaim is the right to a block's addresses. It is not for concurrent
// use.
type blockClaim struct {
	block vnet.Block
	locks []*os.File // one per address family; nil after release
	dir   string
}

// errPoolFull is matched by the error of claimBlock when every block is taken.
var errPoolFull = errors.New("pool is full")

// claimBlock claims the lowest free block of the pool that hides nothing of the
// host from the guest: no address, nameserver or route. If there is none, it
// takes the lowest free one without an address or nameserver, and returns a
// warning that names the route.
//
// A block is claimed by its addresses, not its number, so pools may overlap.
func (d Dirs) claimBlock(pool vnet.Pool, host hostNet) (*blockClaim, string, error) {
	c, err := d.claimAvoiding(pool, append(host.points(), host.routes...))
	if err == nil || !errors.Is(err, errPoolFull) {
		return c, "", err
	}
	if c, err = d.claimAvoiding(pool, host.points()); err != nil {
		return nil, "", err
	}
	var hidden []string
	for _, r := range host.routes {
		if r.Overlaps(c.block.Prefix4) || r.Overlaps(c.block.Prefix6) {
			hidden = append(hidden, r.String())
		}
	}
	warning := fmt.Sprintf("the sandbox's block %v, %v hides the host's route %s from the guest: choose another IPv4Pool or IPv6Pool",
		c.block.Prefix4, c.block.Prefix6, strings.Join(hidden, ", "))
	return c, warning, nil
}

// claimAvoiding claims the lowest free block that overlaps none of avoid.
func (d Dirs) claimAvoiding(pool vnet.Pool, avoid []netip.Prefix) (*blockClaim, error) {
	for i := 0; ; i++ {
		block, ok := pool.Block(i)
		if !ok {
			return nil, fmt.Errorf("%w: %v has %d blocks", errPoolFull, pool, pool.Capacity())
		}
		if p, ok := overlapping(block, avoid); ok {
			// A route may cover a large part of the pool: go on behind it.
			last, inside := pool.Index(lastAddr(p))
			if !inside {
				last = pool.Capacity()
			}
			i = max(i, last)
			continue
		}
		c, err := d.lockBlock(block)
		if errors.Is(err, errHeld) {
			continue
		}
		return c, err
	}
}

// overlapping returns the prefix of avoid that overlaps the block.
func overlapping(b vnet.Block, avoid []netip.Prefix) (netip.Prefix, bool) {
	for _, p := range avoid {
		if p.Overlaps(b.Prefix4) || p.Overlaps(b.Prefix6) {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// lastAddr returns the highest address of a prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := range b {
		free := len(b)*8 - p.Bits() - (len(b)-1-i)*8 // bits of b[i] behind the prefix, or beyond
		if free > 0 {
			b[i] |= byte(1<<min(free, 8) - 1)
		}
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// lockBlock claims one block. The error matches errHeld if a sandbox has it.
func (d Dirs) lockBlock(b vnet.Block) (*blockClaim, error) {
	c := &blockClaim{block: b, dir: d.blocks()}
	for _, p := range []netip.Prefix{b.Prefix4, b.Prefix6} {
		f, err := lockFile(filepath.Join(c.dir, blockFile(p)))
		if err != nil {
			return nil, errors.Join(err, c.release())
		}
		c.locks = append(c.locks, f)
		// A dead sandbox's file is taken over without being created; touching it
		// tells those who watch the directory.
		now := time.Now()
		if err := os.Chtimes(f.Name(), now, now); err != nil {
			return nil, errors.Join(fmt.Errorf("announce block: %w", err), c.release())
		}
	}
	return c, nil
}

// blockFile returns the name of a block's lock: its network address, where a
// colon, which some file systems refuse, is an underscore.
func blockFile(p netip.Prefix) string {
	return strings.ReplaceAll(p.Addr().String(), ":", "_")
}

// blockPrefix returns the block that a lock of the given name claims.
func blockPrefix(name string) (netip.Prefix, bool) {
	a, err := netip.ParseAddr(strings.ReplaceAll(name, "_", ":"))
	if err != nil {
		return netip.Prefix{}, false
	}
	if a.Is4() {
		return netip.PrefixFrom(a, 30), true
	}
	return netip.PrefixFrom(a, 64), true
}

// release lets the block go. It is idempotent.
func (c *blockClaim) release() error {
	var errs []error
	for _, f := range c.locks {
		errs = append(errs, removed(os.Remove(f.Name())), f.Close())
	}
	c.locks = nil
	return errors.Join(errs...)
}

// heldBlocks returns the blocks that sandboxes hold, all but own.
func (d Dirs) heldBlocks(own vnet.Block) ([]netip.Prefix, error) {
	entries, err := os.ReadDir(d.blocks())
	if err != nil {
		return nil, fmt.Errorf("read blocks: %w", err)
	}
	var held []netip.Prefix
	var errs []error
	for _, e := range entries {
		p, ok := blockPrefix(e.Name())
		if !ok || p == own.Prefix4 || p == own.Prefix6 {
			continue
		}
		h, err := heldAt(filepath.Join(d.blocks(), e.Name()))
		if err != nil {
			errs = append(errs, err)
		}
		if h || err != nil { // in doubt it is somebody's
			held = append(held, p)
		}
	}
	return held, errors.Join(errs...)
}

// sweepBlocks removes the locks of blocks that nobody holds.
func (d Dirs) sweepBlocks() error {
	entries, err := os.ReadDir(d.blocks())
	if err != nil {
		return removed(err)
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(d.blocks(), e.Name())
		if held, err := heldAt(path); held || err != nil {
			errs = append(errs, err)
			continue
		}
		// Whoever claims it in this moment goes on to the next block.
		f, err := lockFile(path)
		if errors.Is(err, errHeld) {
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, removed(os.Remove(path)), f.Close())
	}
	return errors.Join(errs...)
}
