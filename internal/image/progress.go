package image

import (
	"sync"
)

// An EventKind says what a step of a pull is.
type EventKind string

// The kinds of events, in the order in which a pull has them. Downloading and
// Unpacking come for each layer, and layers overlap.
const (
	Resolving   EventKind = "resolving"   // it is asked what the reference means
	Waiting     EventKind = "waiting"     // another process makes the same image
	Downloading EventKind = "downloading" // Bytes of a layer's Total are here; all at once if the cache had it
	Unpacking   EventKind = "unpacking"   // Bytes of a layer's Total have been applied
	Finished    EventKind = "finished"    // the image is there
)

// An Event is a step of a pull.
type Event struct {
	Kind  EventKind
	Ref   string // the image, as it was asked for
	Layer int    // index of the layer, bottom first; 0 unless the kind is of layers
	// Layers is how many layers the image has; 0 while that isn't known.
	Layers int
	Digest string // of the layer, or when Finished of the image
	Bytes  int64  // of the layer, as it travels
	Total  int64
}

// A progress hands events to a func that may be slow. Of events about the same
// thing that wait for it only the latest is kept, so that posting never blocks,
// and what waits is bounded by the number of layers. A nil progress is silent.
type progress struct {
	ref  string
	fn   func(Event)
	wake chan struct{} // has one element if there may be pending events; closed by close
	done chan struct{} // closed by deliver when it has ended

	mu      sync.Mutex // guards the following field
	pending []Event
}

// newProgress returns a progress about ref that calls fn, nil if fn is. The
// caller must close it.
func newProgress(ref string, fn func(Event)) *progress {
	if fn == nil {
		return nil
	}
	p := &progress{ref: ref, fn: fn, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go p.deliver()
	return p
}

// close waits until the last event is delivered. It must be called once, after
// the last post.
func (p *progress) close() {
	if p == nil {
		return
	}
	close(p.wake)
	<-p.done
}

// post has an event delivered, instead of what waits of the same kind and layer.
func (p *progress) post(e Event) {
	if p == nil {
		return
	}
	e.Ref = p.ref
	p.mu.Lock()
	replaced := false
	for i, old := range p.pending {
		if old.Kind == e.Kind && old.Layer == e.Layer {
			p.pending[i], replaced = e, true
		}
	}
	if !replaced {
		p.pending = append(p.pending, e)
	}
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// deliver calls the func until close.
func (p *progress) deliver() {
	defer close(p.done)
	for open := true; open; {
		_, open = <-p.wake
		p.mu.Lock()
		events := p.pending
		p.pending = nil
		p.mu.Unlock()
		for _, e := range events {
			p.fn(e)
		}
	}
}

// progressStep is how many bytes make an event: a terminal shows no less.
const progressStep = 1 << 20

// layer returns a func that posts how much of a layer is done.
func (p *progress) layer(kind EventKind, m *manifest, layer int) func(bytes int64) {
	if p == nil {
		return func(int64) {}
	}
	d := m.Layers[layer]
	e := Event{Kind: kind, Layer: layer, Layers: len(m.Layers), Digest: d.Digest.String(), Total: d.Size}
	posted := int64(-progressStep)
	return func(bytes int64) {
		if bytes-posted < progressStep && bytes != d.Size || bytes == posted {
			return
		}
		posted, e.Bytes = bytes, bytes
		p.post(e)
	}
}
