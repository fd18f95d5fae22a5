package vz

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/sluicenet/sluice/hv"
)

// A fake is a framework whose machines are scripts. It refuses, as the real one
// does, what doesn't fit a machine's state.
type fake struct {
	max    uint64                                // bytes of memory; 0 is 8 GiB
	fails  map[string]error                      // by method; "create" too
	guest  func(*fakeMachine)                    // what runs once a machine is started; nil says that it is ready
	boot   func(*fakeMachine) func(*fakeMachine) // returns guest while the machine's ends are open
	mu     sync.Mutex                            // guards the following field
	made   []*fakeMachine
	noKeep bool // machines can't be saved
}

func (f *fake) limits() (limits, error) {
	l := limits{minCPUs: 1, maxCPUs: 8, minMemory: 4 * mebibyte, maxMemory: 8 << 30}
	if f.max != 0 {
		l.maxMemory = f.max
	}
	return l, f.fails["limits"]
}

func (f *fake) create(p plan) (virtualMachine, error) {
	if err := f.fails["create"]; err != nil {
		return nil, err
	}
	m := &fakeMachine{fake: f, plan: p, news: make(chan state, 16), lost: make(chan error, 1), ended: make(chan struct{})}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.made = append(f.made, m)
	if f.noKeep {
		return struct{ virtualMachine }{m}, nil
	}
	return m, nil
}

// machine returns the only machine that was made.
func (f *fake) machine(t *testing.T) *fakeMachine {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.made) != 1 {
		t.Fatalf("%d machines were made", len(f.made))
	}
	return f.made[0]
}

// A fakeMachine is a machine of a fake's.
type fakeMachine struct {
	fake  *fake
	plan  plan
	news  chan state
	lost  chan error
	ended chan struct{} // closed when the machine is over

	mu     sync.Mutex // guards the following fields
	now    state
	calls  []string
	closes int // how often close was called; nothing is, after it
}

// move makes a call that takes the machine from one of the states to another.
func (m *fakeMachine) move(call string, to state, from ...state) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = append(m.calls, call)
	if m.closes > 0 {
		return fmt.Errorf("fake: %s of a machine that was closed", call)
	}
	if err := m.fake.fails[call]; err != nil {
		return err
	}
	for _, s := range from {
		if m.now == s {
			m.set(to)
			return nil
		}
	}
	return fmt.Errorf("fake: %s while %v", call, m.now)
}

// set changes the state. The caller holds mu.
func (m *fakeMachine) set(s state) {
	m.now = s
	m.news <- s
	if s.over() {
		close(m.ended)
	}
}

// become changes the state by itself, as a guest that ends does.
func (m *fakeMachine) become(s state) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.now.over() {
		m.set(s)
	}
}

func (m *fakeMachine) start() error {
	if err := m.move("start", running, stopped); err != nil {
		return err
	}
	guest := m.fake.guest
	if m.fake.boot != nil {
		guest = m.fake.boot(m)
	}
	if guest == nil {
		guest = (*fakeMachine).sayReady
	}
	go guest(m)
	return nil
}

func (m *fakeMachine) pause() error  { return m.move("pause", paused, running) }
func (m *fakeMachine) resume() error { return m.move("resume", running, paused) }
func (m *fakeMachine) stop() error   { return m.move("stop", stopped, running, paused) }
func (m *fakeMachine) save(string) error {
	return m.move("save", paused, paused)
}
func (m *fakeMachine) restore(string) error {
	return m.move("restore", paused, stopped)
}
func (m *fakeMachine) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closes++
}
func (m *fakeMachine) changes() <-chan state   { return m.news }
func (m *fakeMachine) unplugged() <-chan error { return m.lost }
func (m *fakeMachine) state() state {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

// called returns the calls so far.
func (m *fakeMachine) called() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string(nil), m.calls...)
}

// closed returns how often the machine was closed.
func (m *fakeMachine) closed() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closes
}

// port returns the machine's end of a port.
func (m *fakeMachine) port(name string) *os.File {
	for _, p := range m.plan.ports {
		if p.name == name {
			return p.file
		}
	}
	return nil
}

// say writes to the status port.
func (m *fakeMachine) say(line string) { fmt.Fprintln(m.port("sluice.status"), line) }

func (m *fakeMachine) sayReady() { m.say("ready 1ms 2ms") }

// hypervisor returns one that uses the fake, in a program that may.
func (f *fake) hypervisor(t *testing.T) *Hypervisor {
	t.Helper()
	signed := signer{start: func(context.Context, string, ...string) ([]byte, error) { return []byte(entitlements), nil }}
	boot := func(context.Context, hv.Config, string) (bootFiles, error) {
		return bootFiles{"/kernel", "/initramfs"}, nil
	}
	return &Hypervisor{framework: f, signer: signed, boot: boot}
}

// diskConfig is a guest with a root.
func diskConfig() hv.Config {
	return hv.Config{Name: "test", Disks: []hv.Disk{{Path: "/root.ext4", ReadOnly: true, Format: hv.Ext4}}}
}
