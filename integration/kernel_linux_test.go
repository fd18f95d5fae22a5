package integration

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/sluicenet/sluice/internal/netlab"
	m "github.com/sluicenet/sluice/sdk"
)

// TestVMKernelImage boots a kernel that is in an OCI image, by the path of its
// archive, and finds the console in the log.
func TestVMKernelImage(t *testing.T) {
	t.Parallel()
	netlab.New(t)
	needMachine(t)
	archive, version := kernelArchive(t)
	sb := startVM(t, "vm-kernel", m.WithNetwork(m.NetworkPolicy.None()), m.WithKernel("oci://"+archive))
	eventually(t, "an event tells that kernel "+version+" was booted", func() bool {
		events, err := os.ReadFile(sb.EventsPath())
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(events), version)
	})
	if got := output(t, sb, "echo the console speaks >/dev/console && uname -s"); got != "Linux\n" {
		t.Errorf("the guest says %q", got)
	}
	eventually(t, "the console is in the log", func() bool {
		entries, err := sb.Logs(t.Context(), m.LogOptions{Sources: []m.LogSource{m.LogSourceSystem}})
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(entries, func(e m.LogEntry) bool {
			return e.SessionID == nil && strings.Contains(e.Text(), "the console speaks")
		})
	})
}

// TestVMKernelMissing says what an image must have that has no kernel.
func TestVMKernelMissing(t *testing.T) {
	t.Parallel()
	needMachine(t)
	image, err := demoImage()
	if err != nil {
		t.Fatal(err)
	}
	sb, err := m.CreateSandbox(t.Context(), "vm-no-kernel", m.WithBackend("qemu"), m.WithImage(image), m.WithKernel("oci://"+image),
		m.WithNetwork(m.NetworkPolicy.None()))
	if err == nil {
		sb.Close()
	}
	for _, want := range []string{"has no boot/vmlinuz-VERSION", "put its image at boot/vmlinuz-VERSION there"} {
		if !m.IsKind(err, m.ErrUnsupportedOperation) || !strings.Contains(err.Error(), want) {
			t.Errorf("an image without a kernel: %v; want %q", err, want)
		}
	}
}

// kernelArchive writes an image with the host's kernel, and the modules that a machine
// needs, and returns its path and the version that the kernel's file says: another one
// than the host's, to tell the two apart.
func kernelArchive(t *testing.T) (path, version string) {
	t.Helper()
	kernels, _ := filepath.Glob("/boot/vmlinuz-*-cloud-amd64")
	if len(kernels) == 0 {
		netlab.Skip(t, "a cloud kernel", "there is none in /boot")
	}
	host := strings.TrimPrefix(kernels[0], "/boot/vmlinuz-")
	version = strings.Replace(host, "-cloud-", "-image-", 1)
	image, err := os.ReadFile(kernels[0])
	if err != nil {
		t.Fatal(err)
	}
	// What the kernel calls itself is in what its file has compressed.
	files := map[string][]byte{"boot/vmlinuz-" + version: bytes.Replace(image, []byte(host+" "), []byte(version+" "), 1)}
	add := func(name string) {
		text, err := os.ReadFile("/lib/modules/" + host + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		files["usr/lib/modules/"+version+"/"+name] = text
	}
	add("modules.dep")
	add("modules.builtin")
	wanted := []string{"virtio_mmio", "virtio_pci", "virtio_console", "virtio_net", "virtio_blk", "overlay", "crc32c_generic"}
	for line := range strings.Lines(string(files["usr/lib/modules/"+version+"/modules.dep"])) {
		module, needs, _ := strings.Cut(line, ":")
		if slices.Contains(wanted, strings.TrimSuffix(filepath.Base(module), ".ko")) {
			for _, name := range append(strings.Fields(needs), module) {
				add(name)
			}
		}
	}
	return writeArchive(t, files), version
}

// writeArchive writes an image with files, and lib a link as Debian has it, and returns
// its path.
func writeArchive(t *testing.T, files map[string][]byte) string {
	t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "lib", Linkname: "usr/lib", Mode: 0o777})
	for name, text := range files {
		err = errors.Join(err, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: int64(len(text))}))
		_, writeErr := w.Write(text)
		err = errors.Join(err, writeErr)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config.OS, config.Architecture = "linux", runtime.GOARCH
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "kernel.tar")
	if err := tarball.WriteToFile(path, name.MustParseReference("kernel.invalid/kernel:1"), img); err != nil {
		t.Fatal(err)
	}
	return path
}
