package main

import (
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/spf13/cobra"

	m "github.com/sluicenet/sluice/sdk"
)

func newImages(c *console) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "images",
		Aliases: []string{"image"},
		Short:   "Look after the images that are here",
	}
	return family(cmd, newImageList(c), newImagePull(c), newImageImport(c), newImageLoad(c), newImageSave(c),
		newImageInspect(c), newImageRemove(c), newImagePrune(c))
}

// listedImage is an image as images ls prints it.
type listedImage struct {
	Name    string    `json:"name"`
	Digest  string    `json:"digest"`
	Size    int64     `json:"size_bytes"`
	Layers  uint      `json:"layers"`
	Created time.Time `json:"created"` // here
	Damaged bool      `json:"damaged,omitempty"`
}

func newImageList(c *console) *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use:   "ls [flags]",
		Short: "List images",
		Args:  takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			images, err := m.Image.List(cmd.Context())
			if err != nil {
				return err
			}
			var rows []listedImage
			for _, h := range images {
				rows = append(rows, listedImage{h.Reference(), h.ManifestDigest(), *h.SizeBytes(), h.LayerCount(), h.CreatedAt(), h.Damaged()})
			}
			now := time.Now()
			return printRows(c, &o, "IMAGE\tDIGEST\tSIZE\tCREATED", rows, func(r listedImage) string {
				size := byteCount(uint64(max(r.Size, 0)))
				if r.Damaged {
					size = "damaged"
				}
				return strings.Join([]string{printable(r.Name), shortDigest(r.Digest), size, age(r.Created, now)}, "\t")
			})
		},
	}
	o.register(cmd.Flags())
	return cmd
}

// shortDigest returns what of a digest names an image well enough.
func shortDigest(digest string) string {
	_, hex, _ := strings.Cut(digest, ":")
	return hex[:min(len(hex), 12)]
}

func newImagePull(c *console) *cobra.Command {
	return &cobra.Command{
		Use:   "pull IMAGE…",
		Short: "Bring images here from their registries",
		Args:  takes(1, many),
		RunE: func(cmd *cobra.Command, args []string) error {
			return each(args, func(ref string) error {
				p := newProgress(c)
				h, err := m.Image.Pull(cmd.Context(), ref, m.WithPullPolicy(m.PullPolicyAlways), m.WithPullProgress(p.step))
				p.end()
				if err != nil {
					return err
				}
				c.say(h.ManifestDigest())
				return nil
			})
		},
	}
}

func newImageImport(c *console) *cobra.Command {
	return &cobra.Command{
		Use:     "import IMAGE FILE",
		Short:   "Bring the image of an archive or OCI layout here, under a name",
		Example: "  sluice images import alpine alpine.tar",
		Args:    takes(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := m.Image.Import(cmd.Context(), args[0], args[1])
			if err != nil {
				return err
			}
			c.say(h.ManifestDigest())
			return nil
		},
	}
}

func newImageLoad(c *console) *cobra.Command {
	return &cobra.Command{
		Use:   "load FILE",
		Short: "Bring the images of an archive here, under their names in it",
		Args:  takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			images, err := m.Image.Load(cmd.Context(), args[0])
			for _, h := range images {
				c.say(printable(h.Reference()))
			}
			return err
		},
	}
}

func newImageSave(*console) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "save [flags] IMAGE…",
		Short: "Write images to an archive that docker and podman read too",
		Args:  takes(1, many),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" {
				return errors.New("where to? write --file FILE")
			}
			return m.Image.Save(cmd.Context(), args, file, "")
		},
		ValidArgsFunction: completeImages,
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "`FILE` to write")
	return cmd
}

func newImageInspect(c *console) *cobra.Command {
	return &cobra.Command{
		Use:   "inspect IMAGE…",
		Short: "Print all that is known of images, as JSON",
		Args:  takes(1, many),
		RunE: func(cmd *cobra.Command, args []string) error {
			all := []inspectedImage{}
			for _, ref := range args {
				d, err := m.Image.Inspect(cmd.Context(), ref)
				if err != nil {
					return err
				}
				all = append(all, inspectedImage{d.Names, d.ManifestDigest(), d.OS() + "/" + d.Architecture(), d.BuiltAt(), d.Config, d.Layers})
			}
			e := json.NewEncoder(c.out)
			e.SetIndent("", "  ")
			return e.Encode(all)
		},
		ValidArgsFunction: completeImages,
	}
}

// inspectedImage is an image as images inspect prints it.
type inspectedImage struct {
	Names    []string       `json:"names"`
	Digest   string         `json:"digest"`
	Platform string         `json:"platform"`
	Built    time.Time      `json:"built,omitzero"`
	Config   *m.ImageConfig `json:"config"`
	Layers   []m.ImageLayer `json:"layers"`
}

func newImageRemove(c *console) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "rm [flags] IMAGE…",
		Short: "Remove images",
		Args:  takes(1, many),
		RunE: func(cmd *cobra.Command, args []string) error {
			return each(args, func(ref string) error {
				if err := m.Image.Remove(cmd.Context(), ref, force); err != nil {
					return err
				}
				c.say(ref)
				return nil
			})
		},
		ValidArgsFunction: completeImages,
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "even if a sandbox that is kept needs it")
	return cmd
}

func newImagePrune(c *console) *cobra.Command {
	return &cobra.Command{
		Use:   "prune",
		Short: "Remove images without a name that nobody uses",
		Args:  takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			report, err := m.Image.Prune(cmd.Context())
			if err != nil {
				return err
			}
			for _, name := range report.Removed {
				c.say(printable(name))
			}
			c.notef("%s are free again", byteCount(*report.BytesReclaimed))
			return nil
		},
	}
}
