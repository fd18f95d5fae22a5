package vnet

import (
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	// repeatWindow is how long a denied SYN is taken for a repetition of the
	// one before: Linux repeats after 1, 3, 7, 15, 31 and 63 s.
	repeatWindow = 70 * time.Second
	// repeatMax bounds what is remembered for that. Beyond it everything is
	// forgotten: some attempts are then recorded twice, none is lost.
	repeatMax = 1024
)

// tcpTable holds the TCP flows, and the denied SYNs that the guest may repeat.
type tcpTable struct {
	mu      sync.Mutex
	flows   map[flowKey]*tcpFlow // the guest's
	inbound map[uint64]*tcpFlow  // of published ports, by id
	held    int                  // flows whose handshake is not complete
	denied  map[flowKey]deniedSYN
}

// A deniedSYN is what is remembered of one.
type deniedSYN struct {
	at         time.Time
	generation uint64
}

// tableResult is what add did.
type tableResult uint8

const (
	tableAdded tableResult = iota
	tableFull
	tableHeld // too many flows wait for their host
)

func newTCPTable() *tcpTable {
	return &tcpTable{
		flows:   make(map[flowKey]*tcpFlow),
		inbound: make(map[uint64]*tcpFlow),
		denied:  make(map[flowKey]deniedSYN),
	}
}

func (t *tcpTable) has(k flowKey) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.flows[k] != nil
}

// add puts f into the table as a held flow, if the limits allow.
func (t *tcpTable) add(f *tcpFlow, maxFlows, maxHeld int) tableResult {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case len(t.flows) >= maxFlows:
		return tableFull
	case t.held >= maxHeld:
		return tableHeld
	}
	t.flows[f.key] = f
	t.held++
	return tableAdded
}

// established notes that the flow's handshake is over, one way or the other.
func (t *tcpTable) established() {
	t.mu.Lock()
	t.held--
	t.mu.Unlock()
}

func (t *tcpTable) addInbound(f *tcpFlow) {
	t.mu.Lock()
	t.inbound[f.id] = f
	t.mu.Unlock()
}

func (t *tcpTable) remove(f *tcpFlow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.port != nil {
		delete(t.inbound, f.id)
	} else {
		delete(t.flows, f.key)
	}
}

func (t *tcpTable) counts() (flows, held int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.flows), t.held
}

func (t *tcpTable) get(k flowKey) *tcpFlow {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.flows[k]
}

// each calls fn for every flow, without the lock held.
func (t *tcpTable) each(fn func(*tcpFlow)) {
	t.mu.Lock()
	all := slices.AppendSeq(slices.Collect(maps.Values(t.flows)), maps.Values(t.inbound))
	t.mu.Unlock()
	for _, f := range all {
		fn(f)
	}
}

// repeats reports whether a denied SYN repeats an earlier one, and remembers it.
func (t *tcpTable) repeats(k flowKey, generation uint64, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if d, ok := t.denied[k]; ok && d.generation == generation && now.Sub(d.at) < repeatWindow {
		return true
	}
	if len(t.denied) >= repeatMax {
		clear(t.denied)
	}
	t.denied[k] = deniedSYN{now, generation}
	return false
}
