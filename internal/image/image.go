package image

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"sync"

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
	// The lock is held until the image's Close; all else that can fail comes
	// before its owner has it.
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
