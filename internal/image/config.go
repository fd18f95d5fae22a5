package image

import (
	"cmp"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

// A Config says where a cache is and how images come into it. Only Dir is
// needed.
type Config struct {
	// Dir is the cache's directory. Open makes it, for its user alone.
	Dir string
	// Platform is that of images, "linux/arm64" or "linux/arm/v7". "" is Linux
	// on this machine's processor.
	Platform string
	// Owners are the host's ids that an image's files get. Nil is what this
	// process may give: see [DefaultOwners].
	Owners *Owners
	// Mirrors are, by the host of a registry ("docker.io", "ghcr.io"), hosts
	// that are asked before it, "host[:port][/path]", in their order. The key
	// "*" is for every registry that has none of its own.
	Mirrors map[string][]string
	// Offline keeps it from asking any registry.
	Offline bool
	// Keychain has the credentials for registries where PullOptions has none.
	// Nil is what docker's configuration says.
	Keychain authn.Keychain
	// Limits bound what an image may cost.
	Limits Limits
	// Progress is told how a pull goes on, one call at a time. The work never
	// waits for it, but the method that works returns only after its last call:
	// what a slow one misses are intermediate numbers. Nil is silent.
	Progress func(Event)
	// StallTimeout ends a download of which nothing arrived for so long; it is
	// tried again. 0 means 60 s, which outlasts a router's change of path, and
	// a registry that fetches from its own store.
	StallTimeout time.Duration
	// RetryDelay is the pause before a download that broke off is tried again;
	// it doubles. 0 means 1 s.
	RetryDelay time.Duration
	// Now is the clock that dates names. Nil is time.Now.
	Now func() time.Time
}

func (c *Config) stallTimeout() time.Duration { return cmp.Or(c.StallTimeout, time.Minute) }

// documentTimeout bounds how long a manifest or configuration may take, whose bytes
// may drip so that it never stalls. They have some kilobytes, Limits.DocumentBytes
// at the most: that many come in five minutes at 14 kB/s.
func (c *Config) documentTimeout() time.Duration { return 5 * c.stallTimeout() }
func (c *Config) retryDelay() time.Duration      { return cmp.Or(c.RetryDelay, time.Second) }

func (c *Config) keychain() authn.Keychain {
	if c.Keychain == nil {
		return authn.DefaultKeychain
	}
	return c.Keychain
}

func (c *Config) now() time.Time {
	if c.Now == nil {
		return time.Now()
	}
	return c.Now()
}

// Limits bound what one image may cost the host. A field that is 0 has its
// default. An image beyond a limit is refused with an error that matches
// [ErrContent].
type Limits struct {
	// Layers is the number of layers; default 256: builders stop at 127.
	Layers int
	// DocumentBytes is the size of a manifest, an index or a configuration;
	// default 4 MiB, what registries must take.
	DocumentBytes int64
	// LayerBytes is the size of one layer as it travels; default 16 GiB: the
	// largest in use hold models of about 10 GiB.
	LayerBytes int64
	// ImageBytes is the size of all files that layers write, whether or not
	// they stay, and of an archive; default 64 GiB.
	ImageBytes int64
	// Ratio is how many bytes a layer may unpack to for each of its own, beyond
	// the first RatioFree; default 200. Real layers have 2 to 10, logs 30; gzip
	// ends at 1032, zstd at about 50000.
	Ratio int64
	// RatioFree is what a layer may unpack to whatever its own size; default 1
	// GiB: real ones begin with a file of zeros sometimes.
	RatioFree int64
	// Entries is the number of names that layers write; default 1048576: the
	// largest images in use have about 300000, and each costs about 300 bytes
	// of memory until the image is unpacked.
	Entries int
	// MetadataBytes is the size of all names, link targets and extended
	// attributes; default 256 MiB: they are held in memory.
	MetadataBytes int64
	// PathBytes is the length of a path; default 4095, the longest that system
	// calls take.
	PathBytes int
	// Depth is the number of directories in a path; default 255: whoever walks
	// or removes a tree holds a descriptor per level, and 1024 is a usual limit.
	Depth int
	// XattrBytes is the size of one entry's extended attributes; default 64
	// KiB, the kernel's bound for one value.
	XattrBytes int
}

// withDefaults returns l with defaults for what is 0.
func (l Limits) withDefaults() Limits {
	return Limits{
		Layers:        cmp.Or(l.Layers, 256),
		DocumentBytes: cmp.Or(l.DocumentBytes, 4<<20),
		LayerBytes:    cmp.Or(l.LayerBytes, 16<<30),
		ImageBytes:    cmp.Or(l.ImageBytes, 64<<30),
		Ratio:         cmp.Or(l.Ratio, 200),
		RatioFree:     cmp.Or(l.RatioFree, 1<<30),
		Entries:       cmp.Or(l.Entries, 1<<20),
		MetadataBytes: cmp.Or(l.MetadataBytes, 256<<20),
		PathBytes:     cmp.Or(l.PathBytes, 4095),
		Depth:         cmp.Or(l.Depth, 255),
		XattrBytes:    cmp.Or(l.XattrBytes, 64<<10),
	}
}
