package main

import (
	"fmt"
	"sync"

	m "github.com/sluicenet/sluice/sdk"
)

// A progress tells how the pull of an image goes: on a terminal in one line that
// changes, elsewhere a line for each step that takes long. Its methods may be
// called by several goroutines.
type progress struct {
	c        *console
	terminal bool

	mu     sync.Mutex // guards the following fields
	kind   string     // of the last step
	layers map[int]m.PullProgress
	drawn  bool // a line stands that is to be written over
}

func newProgress(c *console) *progress {
	return &progress{c: c, terminal: isTerminal(c.err) && !c.quiet, layers: make(map[int]m.PullProgress)}
}

// step takes a step of a pull.
func (p *progress) step(s m.PullProgress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	news := s.Kind != p.kind
	p.kind = s.Kind
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

// end ends the line, whatever became of the pull.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wipe()
}
