package sdk

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/sluicenet/sluice/internal/image"
	"github.com/sluicenet/sluice/internal/sandbox"
)

// A PullPolicy says when a registry is asked for an image.
type PullPolicy string

const (
	PullPolicyDefault   PullPolicy = ""           // if-missing
	PullPolicyAlways    PullPolicy = "always"     // each time; only what changed is fetched
	PullPolicyIfMissing PullPolicy = "if-missing" // when the image isn't here
	PullPolicyNever     PullPolicy = "never"
)

// A RegistryAuth is what a registry knows a user by. It prints and is marshalled
// without the password.
type RegistryAuth struct {
	Username string `json:"username"`
	Password string `json:"-"`
}

// String returns the user's name.
func (a RegistryAuth) String() string { return a.Username }

// GoString returns the user's name.
func (a RegistryAuth) GoString() string { return a.Username }

// A PullProgress is a step of a pull, for WithPullProgress.
type PullProgress struct {
	// Kind is resolving, waiting (for another process that makes the same
	// image), downloading, unpacking or finished.
	Kind   string
	Image  string // as it was asked for
	Layer  int    // which layer, from 0 on; of downloading and unpacking
	Layers int    // how many there are; 0 while that isn't known
	Bytes  int64  // of the layer, as it travels
	Total  int64
}

// imageDefaults is what an image says about how it wants to be run, as far as
// commands are concerned, and which image it was.
type imageDefaults struct {
	Digest     string   `json:"digest"`
	Env        []string `json:"env,omitempty"` // NAME=value
	Entrypoint []string `json:"entrypoint,omitempty"`
	Cmd        []string `json:"cmd,omitempty"`
	Workdir    string   `json:"workdir,omitempty"`
	User       string   `json:"user,omitempty"`
}

// checkImage reports what is wrong with where the image is to come from.
func (c *checker) checkImage(cfg *SandboxConfig) {
	switch cfg.PullPolicy {
	case PullPolicyDefault, PullPolicyAlways, PullPolicyIfMissing, PullPolicyNever:
	default:
		c.fail(ErrInvalidArgument, "WithPullPolicy", string(cfg.PullPolicy), "no such policy", "write always, if-missing or never")
	}
	if a := cfg.RegistryAuth; a != nil && a.Username == "" {
		c.fail(ErrInvalidConfig, "WithRegistryAuth.Username", "", "is empty", "give the name that the registry knows, or drop it")
	}
	if len(cfg.RegistryCACerts) > 0 {
		c.checkPEM("WithRegistryCACerts", "", cfg.RegistryCACerts)
	}
	if path := cfg.RegistryCACertsPath; path != "" {
		c.checkBundle("WithRegistryCACertsPath", path)
	}
}

// mirrorsVar lists mirrors of registries, "docker.io=mirror.example,…": they are
// asked before the registry itself. A registry of * is every other.
const mirrorsVar = "SLUICE_REGISTRY_MIRRORS"

// parseMirrors reads the list of mirrors.
func parseMirrors(text string) (map[string][]string, error) {
	mirrors := make(map[string][]string)
	for entry := range strings.SplitSeq(text, ",") {
		if entry == "" {
			continue
		}
		registry, mirror, ok := strings.Cut(entry, "=")
		if !ok || registry == "" || mirror == "" {
			return nil, &Error{Kind: ErrInvalidConfig, Message: mirrorsVar + ": " + entry, Hint: "write REGISTRY=MIRROR, with commas in between"}
		}
		mirrors[registry] = append(mirrors[registry], mirror)
	}
	return mirrors, nil
}

// openImages opens the cache of images below a home directory. progress may be
// nil.
func openImages(dirs sandbox.Dirs, progress func(PullProgress)) (*image.Store, error) {
	mirrors, err := parseMirrors(os.Getenv(mirrorsVar))
	if err != nil {
		return nil, err
	}
	cfg := image.Config{Dir: dirs.Images(), Mirrors: mirrors}
	if progress != nil {
		cfg.Progress = func(e image.Event) {
			progress(PullProgress{Kind: string(e.Kind), Image: e.Ref, Layer: e.Layer, Layers: e.Layers, Bytes: e.Bytes, Total: e.Total})
		}
	}
	store, err := image.Open(cfg)
	if err != nil {
		return nil, imageError(err)
	}
	return store, nil
}

// pull brings the image of the configuration into the cache. The caller closes
// what it returns once the sandbox's process holds the image itself.
func (c *SandboxConfig) pull(ctx context.Context, dirs sandbox.Dirs) (*image.Image, error) {
	store, err := openImages(dirs, c.progress)
	if err != nil {
		return nil, err
	}
	o, err := c.pullOptions()
	if err != nil {
		return nil, err
	}
	o.Insecure = c.RegistryInsecure
	if a := c.RegistryAuth; a != nil {
		o.Username, o.Password = a.Username, a.Password
	}
	img, err := store.Pull(ctx, c.Image, o)
	if err != nil {
		return nil, imageError(err)
	}
	return img, nil
}

// pullOptions returns how images are pulled, whatever their registry.
func (c *SandboxConfig) pullOptions() (image.PullOptions, error) {
	o := image.PullOptions{Policy: image.Policy(c.PullPolicy), CACerts: c.RegistryCACerts}
	if c.RegistryCACertsPath != "" {
		text, err := os.ReadFile(c.RegistryCACertsPath)
		if err != nil {
			return o, &Error{Kind: ErrTLS, Message: err.Error(), Hint: "give the path of a PEM bundle"}
		}
		o.CACerts = append(append(o.CACerts[:len(o.CACerts):len(o.CACerts)], '\n'), text...)
	}
	return o, nil
}

// defaultsOf returns what an image says about its commands.
func defaultsOf(img *image.Image) *imageDefaults {
	return &imageDefaults{
		Digest:     img.Digest,
		Env:        img.Config.Env,
		Entrypoint: img.Config.Entrypoint,
		Cmd:        img.Config.Cmd,
		Workdir:    img.Config.WorkingDir,
		User:       img.Config.User,
	}
}

// imageDigest returns which image of the cache is the root; "" without one, and
// before it was pulled.
func (c *SandboxConfig) imageDigest() string {
	if c.image == nil {
		return ""
	}
	return c.image.Digest
}

// imageError returns an error of package image as ours.
func imageError(err error) error {
	e := &Error{Kind: ErrIO, Cause: err}
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		e.Kind = ErrCancelled
	case errors.Is(err, image.ErrReference):
		e.Kind = ErrInvalidArgument
	case errors.Is(err, image.ErrNotFound):
		e.Kind = ErrImageNotFound
	case errors.Is(err, image.ErrInUse):
		e.Kind = ErrImageInUse
	case errors.Is(err, image.ErrPull), errors.Is(err, image.ErrContent):
		e.Kind = ErrImagePullFailed
	case errors.Is(err, errors.ErrUnsupported):
		e.Kind = ErrUnsupportedOperation
	}
	var detail *image.Error
	if errors.As(err, &detail) {
		plain := *detail
		e.Hint, plain.Hint = detail.Hint, ""
		e.Cause = &plain
	}
	return e
}
