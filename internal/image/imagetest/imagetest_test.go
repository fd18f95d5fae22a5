package imagetest_test

import (
	"errors"
	"os/exec"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/sluicenet/sluice/internal/image/imagetest"
	"github.com/sluicenet/sluice/internal/netlab"
)

// TestBusybox writes the image to an archive and reads it back.
func TestBusybox(t *testing.T) {
	t.Parallel()
	img, err := imagetest.Busybox(v1.Config{Cmd: []string{"sh"}})
	if errors.Is(err, exec.ErrNotFound) {
		netlab.Skip(t, "tools", err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := imagetest.Archive(path, "built.example/test:1", img); err != nil {
		t.Fatal(err)
	}
	back, err := tarball.ImageFromPath(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	file, err := back.ConfigFile()
	if err != nil || file.Config.Cmd[0] != "sh" || file.OS != "linux" {
		t.Errorf("configuration %+v, %v", file, err)
	}
	files := mutate.Extract(back)
	defer files.Close()
}
