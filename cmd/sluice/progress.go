package main

import (
	"fmt"
	"sync"
	"time"

	m "github.com/sluicenet/sluice/sdk"
)

// How long a start takes that is told of. A namespace's is over before anybody
// could read; a log is for what went wrong.
const (
	slowOnTerminal = time.Second
	slowElsewhere  = 5 * time.Second
)

// A progress tells how the pull of an image and the start of a guest go: on a
// terminal in one line that changes, elsewhere a line for each step that takes
// long. Its methods may be called by several goroutines.
type progress struct {
	c        *console
	terminal bool
	slow     time.Duration

	mu     sync.Mutex  // guards the following fields
	start  *time.Timer // calls starting when the start has taken slow; nil without one
	kind   string      // of the last step
	layers map[int]m.PullProgress
	drawn  bool // a line stands that is to be written over
	ended  bool
}

func newProgress(c *console) *progress {
	p := &progress{c: c, terminal: isTerminal(c.err) && !c.quiet, slow: slowElsewhere, layers: make(map[int]m.PullProgress)}
	if p.terminal {
		p.slow = slowOnTerminal
	}
	return p
}

// awaitStart makes p tell of a start that takes long, from now on or from the end
// of the pull.
func (p *progress) awaitStart() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.start = time.AfterFunc(p.slow, p.starting)
}

// starting tells that the guest takes its time.
func (p *progress) starting() {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.ended, p.kind != "" && p.kind != "finished":
	case p.terminal:
		fmt.Fprint(p.c.err, "\r\x1b[Kthe sandbox starts")
		p.drawn = true
	default:
		p.c.notef("the sandbox starts")
	}
}

// step takes a step of a pull.
func (p *progress) step(s m.PullProgress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	news := s.Kind != p.kind
	p.kind = s.Kind
	if s.Kind == "finished" && p.start != nil {
		p.start.Reset(p.slow)
	}
	p.layers[s.Layer] = s
	switch {
	case p.terminal:
		p.draw(s)
	case news && (s.Kind == "downloading" || s.Kind == "waiting"):
		p.c.notef("%s", p.text(s))
	}
}

// text describes a step.
func (p *progress) text(s m.PullProgress) string {
	switch s.Kind {
	case "waiting":
		return fmt.Sprintf("%s: another process makes it", printable(s.Image))
	case "downloading", "unpacking":
		text := fmt.Sprintf("%s: %s", printable(s.Image), s.Kind)
		if s.Layers > 0 {
			text += fmt.Sprintf(" %d of %d layers", min(len(p.layers), s.Layers), s.Layers)
		}
		return text
	}
	return fmt.Sprintf("%s: %s", printable(s.Image), s.Kind)
}

// draw writes over the line that stands.
func (p *progress) draw(s m.PullProgress) {
	if s.Kind == "finished" {
		p.wipe()
		return
	}
	text := p.text(s)
	var bytes, total int64
	for _, layer := range p.layers {
		bytes += layer.Bytes
		total += layer.Total
	}
	if total > 0 {
		text += fmt.Sprintf(", %s of %s", byteCount(uint64(bytes)), byteCount(uint64(total)))
	}
	fmt.Fprintf(p.c.err, "\r\x1b[K%s", text)
	p.drawn = true
}

// wipe takes the line away, if there is one.
func (p *progress) wipe() {
	if p.drawn {
		fmt.Fprint(p.c.err, "\r\x1b[K")
		p.drawn = false
	}
}

// end ends the line, whatever became of the pull and the start.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	if p.start != nil {
		p.start.Stop()
	}
	p.wipe()
}
