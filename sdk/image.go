package sdk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/sluicenet/sluice/internal/image"
	"github.com/sluicenet/sluice/internal/sandbox"
)

// Image is the images that are here: those that were pulled, or loaded. All
// programs of a user share them. References are names as docker takes them,
// digests, or the first 12 digits of these.
//
// Errors have kind ErrImageNotFound, ErrImageInUse, ErrImagePullFailed for what
// can't be had or is damaged, and ErrInvalidArgument for what names no image.
var Image imageFactory

type imageFactory struct{}

// An ImageHandle is an image that is here, as it was when it was looked at.
type ImageHandle struct {
	info   image.Info
	layers int
}

// Reference returns the image's name as docker shows it, or its digest if it has
// none.
func (h *ImageHandle) Reference() string {
	if h.info.Name == "" {
		return h.info.Digest
	}
	return h.info.Name
}

// ManifestDigest returns the digest of its manifest, "sha256:...".
func (h *ImageHandle) ManifestDigest() string { return h.info.Digest }

// OS returns the system that it is for, such as linux.
func (h *ImageHandle) OS() string {
	system, _, _ := strings.Cut(h.info.Platform, "/")
	return system
}

// Architecture returns the processor that it is for, such as amd64 or arm/v7.
func (h *ImageHandle) Architecture() string {
	_, arch, _ := strings.Cut(h.info.Platform, "/")
	return arch
}

// LayerCount returns how many layers it has; 0 if it can't be read.
func (h *ImageHandle) LayerCount() uint { return uint(h.layers) }

// SizeBytes returns how large its layers are, as they travel.
func (h *ImageHandle) SizeBytes() *int64 { return &h.info.Size }

// CreatedAt returns when it came here under its name.
func (h *ImageHandle) CreatedAt() time.Time { return h.info.Named }

// BuiltAt returns when it was built, as it says itself; zero if it doesn't.
func (h *ImageHandle) BuiltAt() time.Time { return h.info.Created }

// Damaged reports whether what is here of it can't be read; to pull it again
// replaces it.
func (h *ImageHandle) Damaged() bool { return h.info.Damaged }

// Inspect is Image.Inspect of the image.
func (h *ImageHandle) Inspect(ctx context.Context) (*ImageDetail, error) {
	return Image.Inspect(ctx, h.Reference())
}

// Remove is Image.Remove of the image.
func (h *ImageHandle) Remove(ctx context.Context, force bool) error {
	return Image.Remove(ctx, h.Reference(), force)
}

// An ImageDetail is all that is known about an image.
type ImageDetail struct {
	*ImageHandle
	Names  []string // all of them
	Config *ImageConfig
	Layers []ImageLayer // bottom first
	// Manifest and RawConfig are the documents as they came, JSON.
	Manifest, RawConfig []byte
}

// An ImageConfig is what an image says about how it wants to be run.
type ImageConfig struct {
	Env          []string // NAME=value
	Entrypoint   []string
	Cmd          []string
	WorkingDir   string
	User         string
	Labels       map[string]string
	ExposedPorts []string // 80/tcp
	StopSignal   string
}

// An ImageLayer is a layer of an image.
type ImageLayer struct {
	DiffID              string // digest of what it unpacks to
	BlobDigest          string // digest of what travels
	MediaType           string
	CompressedSizeBytes *int64
	Position            int32 // 0 is the bottom
}

// An ImagePruneReport says what Prune removed.
type ImagePruneReport struct {
	Removed          []string // names, or digests of what had none
	ImageRefsRemoved uint32   // how many
	BytesReclaimed   *uint64
}

// An ImageArchiveFormat is what Save writes. It writes both at once: an OCI layout
// that is a docker archive as well.
type ImageArchiveFormat string

const (
	ImageArchiveDocker ImageArchiveFormat = "docker"
	ImageArchiveOCI    ImageArchiveFormat = "oci"
)

// imageStore opens the images of this user.
func imageStore(progress func(PullProgress)) (*image.Store, sandbox.Dirs, error) {
	dirs, err := userDirs()
	if err != nil {
		return nil, dirs, err
	}
	if err := dirs.Create(); err != nil {
		return nil, dirs, &Error{Kind: ErrIO, Cause: err, Hint: "set SLUICE_HOME"}
	}
	store, err := openImages(dirs, progress)
	return store, dirs, err
}

// withImages calls do with the images of this user, and says of what it was
// about.
func withImages(ctx context.Context, op string, do func(*image.Store, sandbox.Dirs) error) error {
	if err := ctx.Err(); err != nil {
		return withOp(op, err)
	}
	store, dirs, err := imageStore(nil)
	if err == nil {
		err = do(store, dirs)
	}
	var ours *Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ours):
		return withOp(op, err)
	}
	return withOp(op, imageError(err))
}

// Get returns the image of a reference.
func (imageFactory) Get(ctx context.Context, reference string) (*ImageHandle, error) {
	d, err := Image.Inspect(ctx, reference)
	if err != nil {
		return nil, err
	}
	return d.ImageHandle, nil
}

// List returns all images: those with names, by name, then those without.
func (imageFactory) List(ctx context.Context) ([]*ImageHandle, error) {
	var handles []*ImageHandle
	err := withImages(ctx, "list images", func(store *image.Store, _ sandbox.Dirs) error {
		infos, err := store.List()
		for _, info := range infos {
			h := &ImageHandle{info: info}
			if d, err := store.Inspect(info.Digest); err == nil { // else it is damaged
				h.layers = len(d.Layers)
			}
			handles = append(handles, h)
		}
		return err
	})
	return handles, err
}

// Inspect returns all that is known about an image.
func (imageFactory) Inspect(ctx context.Context, reference string) (*ImageDetail, error) {
	var out *ImageDetail
	err := withImages(ctx, fmt.Sprintf("inspect image %q", reference), func(store *image.Store, _ sandbox.Dirs) error {
		d, err := store.Inspect(reference)
		if err == nil {
			out = detailOf(d)
		}
		return err
	})
	return out, err
}

// detailOf returns details in the words of this package.
func detailOf(d image.Details) *ImageDetail {
	out := &ImageDetail{
		ImageHandle: &ImageHandle{info: d.Info, layers: len(d.Layers)},
		Names:       d.Names,
		Config: &ImageConfig{
			Env: d.Config.Env, Entrypoint: d.Config.Entrypoint, Cmd: d.Config.Cmd, WorkingDir: d.Config.WorkingDir, User: d.Config.User,
			Labels: d.Config.Labels, ExposedPorts: d.Config.ExposedPorts, StopSignal: d.Config.StopSignal,
		},
		Manifest:  d.Manifest,
		RawConfig: d.RawConfig,
	}
	for i, l := range d.Layers {
		out.Layers = append(out.Layers, ImageLayer{
			DiffID: l.DiffID, BlobDigest: l.Digest, MediaType: l.MediaType, CompressedSizeBytes: &l.Size, Position: int32(i),
		})
	}
	return out
}

// Pull brings an image here, as CreateSandbox would. Of the options those about
// images count: WithPullPolicy, WithPullProgress and those of the registry.
func (imageFactory) Pull(ctx context.Context, reference string, opts ...SandboxOption) (*ImageHandle, error) {
	op := fmt.Sprintf("pull image %q", reference)
	var cfg SandboxConfig
	for _, o := range opts {
		o(&cfg)
	}
	cfg.Image = reference
	var c checker
	c.checkImage(&cfg)
	if err := c.err(); err != nil {
		return nil, withOp(op, err)
	}
	dirs, err := userDirs()
	if err != nil {
		return nil, withOp(op, err)
	}
	if err := dirs.Create(); err != nil {
		return nil, withOp(op, err)
	}
	img, err := cfg.pull(ctx, dirs)
	if err != nil {
		return nil, withOp(op, err)
	}
	defer img.Close()
	return Image.Get(ctx, img.Digest)
}

// Remove removes an image's name, and with its last name the image; by a digest
// all of both. The error has kind ErrImageInUse if a sandbox runs from the image,
// or is kept that did, unless force is set.
func (imageFactory) Remove(ctx context.Context, reference string, force bool) error {
	return withImages(ctx, fmt.Sprintf("remove image %q", reference), func(store *image.Store, dirs sandbox.Dirs) error {
		if !force {
			if err := checkUnused(store, dirs, reference); err != nil {
				return err
			}
		}
		return store.Remove(reference, force)
	})
}

// checkUnused reports a sandbox, running or kept, that needs an image whose last
// name would go.
func checkUnused(store *image.Store, dirs sandbox.Dirs, reference string) error {
	d, err := store.Inspect(reference)
	if err != nil || len(d.Names) > 1 {
		return err
	}
	all, err := sandbox.List(dirs)
	if err != nil {
		return err
	}
	for _, found := range all {
		if found.Image == d.Digest {
			return &Error{Kind: ErrImageInUse, Message: fmt.Sprintf("sandbox %q needs it", found.Name), Hint: "remove the sandbox first"}
		}
	}
	return nil
}

// Prune removes the images without a name that nobody uses, and what was left
// behind by pulls that broke off.
func (imageFactory) Prune(ctx context.Context) (*ImagePruneReport, error) {
	var out *ImagePruneReport
	err := withImages(ctx, "prune images", func(store *image.Store, _ sandbox.Dirs) error {
		pruned, err := store.Prune(ctx, false)
		bytes := uint64(max(pruned.Bytes, 0))
		out = &ImagePruneReport{Removed: pruned.Images, ImageRefsRemoved: uint32(len(pruned.Images)), BytesReclaimed: &bytes}
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Load brings the images of an OCI archive or a docker archive here, under the
// names that they have there. With tags it must hold one image, or be an OCI
// layout that does, which gets these names instead.
func (imageFactory) Load(ctx context.Context, path string, tags ...string) ([]*ImageHandle, error) {
	var handles []*ImageHandle
	err := withImages(ctx, fmt.Sprintf("load images of %q", path), func(store *image.Store, _ sandbox.Dirs) error {
		if len(tags) > 0 {
			return loadAs(ctx, store, path, tags, &handles)
		}
		f, err := os.Open(path)
		if err != nil {
			return hostError(err)
		}
		defer f.Close() // only read
		infos, err := store.Load(ctx, f)
		for _, info := range infos {
			handles = append(handles, &ImageHandle{info: info})
		}
		return err
	})
	return handles, err
}

// Import brings the image of an OCI layout, an OCI archive or a docker archive
// here under a name, as if it had been pulled.
func (imageFactory) Import(ctx context.Context, reference, path string) (*ImageHandle, error) {
	handles, err := Image.Load(ctx, path, reference)
	if err != nil {
		return nil, err
	}
	return handles[0], nil
}

// loadAs brings the image of an archive, or of an OCI layout, here under names.
func loadAs(ctx context.Context, store *image.Store, path string, names []string, handles *[]*ImageHandle) error {
	for _, name := range names {
		info, err := store.Import(ctx, name, path)
		if err != nil {
			return err
		}
		*handles = append(*handles, &ImageHandle{info: info})
	}
	return nil
}

// Save writes images to an archive that Load, docker and podman read. Whatever
// format is asked for, the archive is both.
func (imageFactory) Save(ctx context.Context, references []string, path string, format ImageArchiveFormat) error {
	return withImages(ctx, fmt.Sprintf("save images to %q", path), func(store *image.Store, _ sandbox.Dirs) error {
		switch format {
		case "", ImageArchiveDocker, ImageArchiveOCI:
		default:
			return &Error{Kind: ErrInvalidArgument, Message: fmt.Sprintf("format: %q: no such format", format), Hint: "write docker or oci"}
		}
		f, err := os.Create(path)
		if err != nil {
			return hostError(err)
		}
		if err := store.Save(ctx, f, references...); err != nil {
			return errors.Join(err, f.Close(), os.Remove(path))
		}
		return hostError(f.Close())
	})
}
