package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// A manifest is a verified manifest, with the configuration it names.
type manifest struct {
	v1.Manifest
	digest v1.Hash
	config *v1.ConfigFile
	blobs  []v1.Descriptor // configuration and layers
}

// hashOf returns the digest that h has come to.
func hashOf(h hash.Hash) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}
}

// hashBytes returns the digest of b.
func hashBytes(b []byte) v1.Hash {
	sum := sha256.Sum256(b)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

// isIndex reports whether a document is an index. One that could be read as
// either would be two images with one digest (CVE-2021-41190).
func isIndex(document []byte) (bool, error) {
	var shape struct {
		SchemaVersion int             `json:"schemaVersion"`
		Manifests     json.RawMessage `json:"manifests"`
		Layers        json.RawMessage `json:"layers"`
		Config        json.RawMessage `json:"config"`
	}
	if err := json.Unmarshal(document, &shape); err != nil {
		return false, refused("it is no manifest: %v", err)
	}
	// By what it holds and not by its media type, which is optional, and which the
	// registry's answer may state otherwise.
	image := shape.Layers != nil || shape.Config != nil
	switch {
	case shape.SchemaVersion != 2:
		return false, refused("a manifest of schema version %d; 2 is the only one in use", shape.SchemaVersion)
	case image && shape.Manifests != nil:
		return false, refused("both a manifest and an index")
	case !image && shape.Manifests == nil:
		return false, refused("neither a manifest nor an index")
	}
	return !image, nil
}

// parseManifest parses a manifest whose digest is known to be right.
func parseManifest(document []byte, limits Limits) (*manifest, error) {
	parsed, err := v1.ParseManifest(bytes.NewReader(document))
	if err != nil {
		return nil, refused("parse manifest: %v", err)
	}
	m := &manifest{Manifest: *parsed, digest: hashBytes(document)}
	// Charts, signatures and other artifacts travel as images too.
	switch m.Config.MediaType {
	case types.OCIConfigJSON, types.DockerConfigJSON, "":
	default:
		return nil, refused("it is no container image but %q", m.Config.MediaType)
	}
	if len(m.Layers) > limits.Layers {
		return nil, refused("%d layers; %d are the most", len(m.Layers), limits.Layers)
	}
	if err := checkDescriptor(m.Config, limits.DocumentBytes); err != nil {
		return nil, err
	}
	for _, l := range m.Layers {
		if err := checkDescriptor(l, limits.LayerBytes); err != nil {
			return nil, err
		}
	}
	m.blobs = append([]v1.Descriptor{m.Config}, m.Layers...)
	return m, nil
}

// checkDescriptor reports whether a descriptor can be used, for up to limit
// bytes.
func checkDescriptor(d v1.Descriptor, limit int64) error {
	if d.Size < 0 || d.Size > limit {
		return refused("%v has %d bytes; %d are the most", d.Digest, d.Size, limit)
	}
	return checkHash(d.Digest)
}

// configure parses the configuration, whose digest is known to be right.
func (m *manifest) configure(document []byte) error {
	config, err := v1.ParseConfigFile(bytes.NewReader(document))
	if err != nil {
		return refused("parse configuration: %v", err)
	}
	// Without one for each layer what is unpacked couldn't be verified.
	if len(config.RootFS.DiffIDs) != len(m.Layers) {
		return refused("%d layers, but %d diffIDs", len(m.Layers), len(config.RootFS.DiffIDs))
	}
	for _, h := range config.RootFS.DiffIDs {
		if err := checkHash(h); err != nil {
			return err
		}
	}
	// They become arguments and environment of processes, where a NUL is an end.
	c := config.Config
	for _, s := range slices.Concat(c.Entrypoint, c.Cmd, c.Env, []string{c.WorkingDir, c.User, c.StopSignal}) {
		if strings.ContainsRune(s, 0) {
			return refused("the configuration has a string with a NUL")
		}
	}
	m.config = config
	return nil
}

// platformOf returns the platform that s names, or else this machine's.
func platformOf(s string) (v1.Platform, error) {
	if s == "" {
		return v1.Platform{OS: "linux", Architecture: runtime.GOARCH}, nil
	}
	p, err := v1.ParsePlatform(s)
	if err != nil || p.OS == "" || p.Architecture == "" {
		return v1.Platform{}, fmt.Errorf("platform %q is not like linux/arm64", s)
	}
	return *p, nil
}

// choosePlatform returns that of an index's manifests which is for the platform:
// the one of its very variant, or else the first for any.
func choosePlatform(manifests []v1.Descriptor, want v1.Platform) (v1.Descriptor, error) {
	var fit []v1.Descriptor
	var others []string
	for _, d := range manifests {
		switch p := d.Platform; {
		case p == nil && len(manifests) == 1:
			return d, nil // its configuration will tell
		case p == nil:
		case p.OS == want.OS && p.Architecture == want.Architecture && (want.Variant == "" || variant(*p) == variant(want)):
			fit = append(fit, d)
		case p.OS != "unknown": // what builders say of attestations
			others = append(others, p.String())
		}
	}
	if len(fit) == 0 {
		return v1.Descriptor{}, &noPlatform{want, others}
	}
	for _, d := range fit {
		if variant(*d.Platform) == variant(want) {
			return d, nil
		}
	}
	return fit[0], nil // the order is the publisher's preference
}

// chooseFrom is choosePlatform for an index as a document.
func chooseFrom(index []byte, want v1.Platform) (v1.Descriptor, error) {
	parsed, err := v1.ParseIndexManifest(bytes.NewReader(index))
	if err != nil {
		return v1.Descriptor{}, refused("parse index: %v", err)
	}
	return choosePlatform(parsed.Manifests, want)
}

// variant returns a platform's variant, or the one that stands for none, as
// containerd normalizes them.
func variant(p v1.Platform) string {
	if p.Variant == "" && p.Architecture == "arm64" {
		return "v8"
	}
	if p.Variant == "" && p.Architecture == "arm" {
		return "v7"
	}
	return p.Variant
}

// checkPlatform reports whether the image is for the platform, as far as its
// configuration says.
func (m *manifest) checkPlatform(want v1.Platform) error {
	c := m.config
	if c.OS != "" && c.OS != want.OS || c.Architecture != "" && c.Architecture != want.Architecture {
		return &noPlatform{want, []string{c.OS + "/" + c.Architecture}}
	}
	return nil
}

// A noPlatform says that an image isn't there for a platform. It matches
// ErrNotFound.
type noPlatform struct {
	want v1.Platform
	have []string
}

func (e *noPlatform) Error() string {
	have := "no platform that it names"
	if len(e.have) > 0 {
		have = strings.Join(e.have, ", ")
	}
	return "it is not for " + e.want.String() + " but for " + have
}

func (e *noPlatform) Is(target error) bool { return target == ErrNotFound }
