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
	tableHeld   // too many flows wait for their host
	tableStale  // other rules decide since
	tableMemory // the budget for buffers is spent
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

// add puts f into the table as a held flow, if the limits allow and current, the
// rules' generation, is still the one that decided f. Who replaces the rules
// first does so, and then goes over the table: so no flow slips through between.
func (t *tcpTable) add(f *tcpFlow, maxFlows, maxHeld int, current func() uint64) tableResult {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case f.generation != current():
		return tableStale
	case len(t.flows) >= maxFlows:
		return tableFull
	case t.held >= maxHeld:
		return tableHeld
	}
	t.flows[f.key] = f
	f.held = true
	t.held++
	return tableAdded
}

// established notes that the flow is no longer held, once.
func (t *tcpTable) established(f *tcpFlow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.releaseLocked(f)
}

func (t *tcpTable) releaseLocked(f *tcpFlow) {
	if f.held {
		f.held = false
		t.held--
	}
}

// addInbound is add for a flow of a published port, which has limits of its own.
// It reports false if other rules decide since.
func (t *tcpTable) addInbound(f *tcpFlow, current func() uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.generation != current() {
		return false
	}
	t.inbound[f.id] = f
	return true
}

func (t *tcpTable) remove(f *tcpFlow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.releaseLocked(f)
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
