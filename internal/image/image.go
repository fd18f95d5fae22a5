package image

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// An Image is an unpacked image that stays in the cache until Close, or the end
// of the process.
type Image struct {
	Name   string // as docker shows it; "" if it has none
	Digest string // of the manifest for its platform, "sha256:..."
	// Config is what the image says about how it wants to be run.
	Config RunConfig
	// RootDir is the directory that can be a guest's root. Others use it too:
	// it must only be read, or be the lower directory of an overlay.
	RootDir string
	// Recorded counts what RootDir lacks of the image.
	Recorded Recorded

	layers int
	once   sync.Once
	lock   *fileLock
	err    error // of the release
}

// RunConfig is what an image says about how it wants to be run. All of it may be
// empty.
type RunConfig struct {
	Entrypoint   []string          `json:"entrypoint,omitempty"`
	Cmd          []string          `json:"cmd,omitempty"`
	Env          []string          `json:"env,omitempty"` // "NAME=value"
	WorkingDir   string            `json:"workingDir,omitempty"`
	User         string            `json:"user,omitempty"` // "name", "uid", "name:group", "uid:gid"
	Labels       map[string]string `json:"labels,omitempty"`
	ExposedPorts []string          `json:"exposedPorts,omitempty"` // "80/tcp", sorted
	StopSignal   string            `json:"stopSignal,omitempty"`   // "SIGTERM" or a number
}

// runConfig returns the part of a configuration that is about running.
func runConfig(c v1.Config) RunConfig {
	return RunConfig{
		Entrypoint: c.Entrypoint, Cmd: c.Cmd, Env: c.Env, WorkingDir: c.WorkingDir, User: c.User, Labels: c.Labels,
		ExposedPorts: slices.Sorted(maps.Keys(c.ExposedPorts)), StopSignal: c.StopSignal,
	}
}

// Close lets the cache remove the image. It is idempotent.
func (i *Image) Close() error {
	i.once.Do(func() { i.err = i.lock.release() })
	return i.err
}

// acquire returns the image of a manifest that the cache has, unpacked, with
// what is missing from src; nil if nothing may be.
func (s *Store) acquire(ctx context.Context, digest v1.Hash, name string, src source, p *progress) (*Image, error) {
	m, err := s.known(digest)
	if err != nil {
		return nil, err
	}
	lock, err := s.lockRoot(ctx, m, src, p)
	if err != nil {
		return nil, err
	}
	info, err := readRootInfo(s.rootPath(digest))
	if err != nil {
		return nil, errors.Join(err, lock.release())
	}
	return &Image{
		Name: name, Digest: digest.String(), Config: runConfig(m.config.Config), RootDir: filepath.Join(s.rootPath(digest), rootName),
		Recorded: info.Recorded, layers: len(m.Layers), lock: lock,
	}, nil
}

// known returns a manifest, with its configuration, that the cache has.
func (s *Store) known(digest v1.Hash) (*manifest, error) {
	document, err := s.readDocument(digest)
	if err != nil {
		return nil, err
	}
	m, err := parseManifest(document, s.limits)
	if err != nil {
		return nil, err
	}
	config, err := s.readDocument(m.Config.Digest)
	if err != nil {
		return nil, err
	}
	return m, m.configure(config)
}

// lockRoot returns the shared lock of an image's root, which is there then.
func (s *Store) lockRoot(ctx context.Context, m *manifest, src source, p *progress) (*fileLock, error) {
	root := s.rootPath(m.digest)
	waiting := func() { p.post(Event{Kind: Waiting, Layers: len(m.Layers)}) }
	for {
		l, err := lockAt(ctx, root+lockExt, shared, waiting)
		if err != nil {
			return nil, err
		}
		if ok, err := exists(root); ok || err != nil {
			if err != nil {
				err = errors.Join(err, l.release())
				l = nil
			}
			return l, err
		}
		if err := l.release(); err != nil {
			return nil, err
		}
		if err := s.makeRoot(ctx, m, src, p, waiting); err != nil {
			return nil, err
		}
	}
}

// makeRoot makes an image's root unless somebody else did.
func (s *Store) makeRoot(ctx context.Context, m *manifest, src source, p *progress, waiting func()) error {
	root := s.rootPath(m.digest)
	l, err := lockAt(ctx, root+lockExt, exclusive, waiting)
	if err != nil {
		return err
	}
	defer l.release()
	if ok, err := exists(root); ok || err != nil {
		return err
	}
	if err := s.build(ctx, m, src, root, p); err != nil {
		return errors.Join(err, os.Remove(root+lockExt))
	}
	return nil
}

// build fetches the layers that are missing, unpacks all, and puts the result at
// root.
func (s *Store) build(ctx context.Context, m *manifest, src source, root string, p *progress) (err error) {
	// Blobs must stay until the root is made of them.
	l, err := lockAt(ctx, s.path(rootsDir, blobsLock), shared, nil)
	if err != nil {
		return err
	}
	defer l.release()
	t, err := s.newScratch()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.remove()) }()
	dir := t.path("image")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	fetchCtx, cancel := context.WithCancelCause(ctx)
	f := s.startFetch(fetchCtx, cancel, m, src, t, p)
	err = s.unpack(fetchCtx, m, dir, f.wait, p)
	if err != nil {
		err = causeOf(fetchCtx, err)
	}
	cancel(err)
	f.workers.Wait()
	if err != nil {
		return err
	}
	if err := os.Rename(dir, root); err != nil {
		return err
	}
	return syncDir(s.path(rootsDir))
}

// A fetch brings an image's layers into the cache, several at a time, the lowest
// first.
type fetch struct {
	ctx     context.Context // ends with the first failure, which is its cause
	done    []chan struct{} // by layer: closed by the worker that brought it
	workers sync.WaitGroup
}

// startFetch starts to fetch. cancel, which ends ctx, is called with the first
// failure. The caller must wait for the workers.
func (s *Store) startFetch(ctx context.Context, cancel context.CancelCauseFunc, m *manifest, src source, t *scratch, p *progress) *fetch {
	f := &fetch{ctx: ctx}
	for range m.Layers {
		f.done = append(f.done, make(chan struct{}))
	}
	var next atomic.Int64
	for range min(downloads, len(m.Layers)) {
		f.workers.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(m.Layers) && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if err := s.fetchOnce(ctx, m, i, f, src, t, p); err != nil {
					cancel(err)
					return
				}
				close(f.done[i])
			}
		})
	}
	return f
}

// fetchOnce fetches a layer, or waits for the worker that fetches the same blob
// for a lower one.
func (s *Store) fetchOnce(ctx context.Context, m *manifest, layer int, f *fetch, src source, t *scratch, p *progress) error {
	d := m.Layers[layer]
	lower := slices.IndexFunc(m.Layers[:layer], func(l v1.Descriptor) bool { return l.Digest == d.Digest })
	if lower >= 0 {
		return f.wait(lower)
	}
	if err := s.fetchBlob(ctx, src, d, t, p.layer(Downloading, m, layer)); err != nil {
		return fmt.Errorf("fetch layer %d of %d: %w", layer+1, len(m.Layers), err)
	}
	return nil
}

// wait waits until a layer is there.
func (f *fetch) wait(layer int) error {
	select {
	case <-f.done[layer]:
		return nil
	case <-f.ctx.Done():
		return context.Cause(f.ctx)
	}
}
