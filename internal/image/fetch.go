package image

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// downloads is how many layers come at a time: registries serve one stream
// slower than a line is, and more than three no faster.
const downloads = 3

// A fetch brings an image's layers into the cache, several at a time, the lowest
// first: that is the order in which they are unpacked. It must be stopped.
type fetch struct {
	s   *Store
	m   *manifest
	src source
	t   *scratch
	p   *progress

	ctx     context.Context         // ends with the first failure, which is its cause
	cancel  context.CancelCauseFunc // ends ctx
	next    atomic.Int64            // the layer that the next free worker takes
	done    []chan struct{}         // by layer: closed by the worker that brought it
	workers sync.WaitGroup
}

// startFetch starts to fetch what the cache lacks of m's layers.
func (s *Store) startFetch(ctx context.Context, m *manifest, src source, t *scratch, p *progress) *fetch {
	f := &fetch{s: s, m: m, src: src, t: t, p: p}
	f.ctx, f.cancel = context.WithCancelCause(ctx)
	for range m.Layers {
		f.done = append(f.done, make(chan struct{}))
	}
	for range min(downloads, len(m.Layers)) {
		f.workers.Go(f.work)
	}
	return f
}

// work fetches one layer after the other until none is left, or one failed.
func (f *fetch) work() {
	for f.ctx.Err() == nil {
		i := int(f.next.Add(1)) - 1
		if i >= len(f.m.Layers) {
			return
		}
		if err := f.layer(i); err != nil {
			f.cancel(fmt.Errorf("fetch layer %d of %d: %w", i+1, len(f.m.Layers), err))
			return
		}
		close(f.done[i])
	}
}

// layer fetches a layer. An image may have the same blob for several: then it
// waits for the worker that has the lowest, which took it earlier.
func (f *fetch) layer(i int) error {
	d := f.m.Layers[i]
	first := slices.IndexFunc(f.m.Layers, func(l v1.Descriptor) bool { return l.Digest == d.Digest })
	if first < i {
		return f.wait(first)
	}
	return f.s.fetchBlob(f.ctx, f.src, d, f.t, f.p.layer(Downloading, f.m, i))
}

// wait waits until a layer is there, or the fetch has failed.
func (f *fetch) wait(layer int) error {
	select {
	case <-f.done[layer]:
		return nil
	case <-f.ctx.Done():
		return context.Cause(f.ctx)
	}
}

// stop ends what still goes on, and waits for it. err is how the use of the
// layers ended; the result is that, or the failure that came before.
func (f *fetch) stop(err error) error {
	if err != nil {
		err = causeOf(f.ctx, err)
	}
	f.cancel(err)
	f.workers.Wait()
	return err
}
