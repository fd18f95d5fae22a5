package sdk_test

import (
	"archive/tar"
	"encoding/binary"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/sluicenet/sluice/hv/hvtest"
	"github.com/sluicenet/sluice/internal/image/imagetest"
	m "github.com/sluicenet/sluice/sdk"
)

// kernelImage returns an image with the head of a kernel, and a list of its modules.
func kernelImage(t *testing.T) v1.Image {
	t.Helper()
	head := make([]byte, 8192)
	copy(head[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(head[0x20e:], 0x1000)
	copy(head[0x1200:], "6.1.0 (builder@host) #1 SMP\x00")
	var files []imagetest.File
	for path, text := range map[string]string{"boot/vmlinuz-6.1.0": string(head), "lib/modules/6.1.0/modules.dep": "kernel/a.ko:\n"} {
		files = append(files, imagetest.File{Header: tar.Header{Typeflag: tar.TypeReg, Name: path, Mode: 0o644}, Content: text})
	}
	img, err := imagetest.Image(v1.Config{}, files...)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// TestKernel checks which kernel a backend is told to boot: a path as it is, that of
// an image as the directory that it was unpacked into, and none without a word.
func TestKernel(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(registry.New())
	t.Cleanup(server.Close)
	ref := strings.TrimPrefix(server.URL, "http://") + "/kernel:6"
	tag, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, kernelImage(t)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "vmlinuz")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, kernel, want, holds string }{
		{"none", "", "", ""},
		{"a path", file, file, ""},
		{"an image", "oci://" + ref, "", "boot/vmlinuz-6.1.0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var fake hvtest.Fake
			sb, err := m.CreateSandbox(t.Context(), "kernel-"+strings.ReplaceAll(tt.name, " ", "-"), m.WithHypervisor(&fake), m.WithKernel(tt.kernel))
			if err != nil {
				t.Fatal(err)
			}
			defer sb.Close()
			got := fake.Guests()[0].Config().Kernel
			if tt.holds == "" {
				if got != tt.want {
					t.Errorf("the backend is to boot %q, want %q", got, tt.want)
				}
				return
			}
			if _, err := os.Stat(filepath.Join(got, tt.holds)); err != nil {
				t.Errorf("the backend is to boot from %q: %v", got, err)
			}
		})
	}
}

// TestKernelRefused checks what no kernel can be.
func TestKernelRefused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, kernel, backend, want string
		kind                        m.ErrorKind
	}{
		{"missing", "/none", "", `WithKernel: "/none": can't be looked at`, m.ErrPathNotFound},
		{"an image without a name", "oci://", "", `WithKernel: "oci://": names no image; write oci://NAME`, m.ErrInvalidArgument},
		{"a namespace", "oci://kernel", "namespace", `WithKernel: "oci://kernel": a namespace has the host's kernel`, m.ErrInvalidConfig},
		{"no reference", "oci://UPPER", "", "UPPER", m.ErrInvalidArgument},
		{"an image that isn't here", "oci://kernel.invalid/none:1", "", "kernel.invalid/none", m.ErrImageNotFound},
	} {
		sb, err := m.CreateSandbox(t.Context(), "refused-kernel", m.WithBackend(tt.backend), m.WithKernel(tt.kernel), m.WithPullPolicy(m.PullPolicyNever))
		if err == nil {
			sb.Close()
		}
		if !m.IsKind(err, tt.kind) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %v: %s", tt.name, err, tt.kind, tt.want)
		}
	}
}

// TestKernelVariable checks that a kernel in an image, which the environment names, is
// pulled for backends that boot one, and for no other.
func TestKernelVariable(t *testing.T) {
	t.Setenv("SLUICE_KERNEL", "oci://kernel.invalid/none:1")
	never := m.WithPullPolicy(m.PullPolicyNever)
	sb, err := m.CreateSandbox(t.Context(), "kernel-variable", m.WithBackend("qemu"), never)
	if err == nil {
		sb.Close()
	}
	if !m.IsKind(err, m.ErrImageNotFound) || !strings.Contains(err.Error(), "kernel.invalid/none") {
		t.Errorf("a machine: %v; want that the kernel's image isn't here", err)
	}
	var fake hvtest.Fake
	sb, err = m.CreateSandbox(t.Context(), "kernel-variable", m.WithHypervisor(&fake), never)
	if err != nil {
		t.Fatalf("a hypervisor of the caller's: %v", err)
	}
	sb.Close()
	sb = running(t, "kernel-variable-namespace", never)
	if sb.Backend() != "namespace" {
		t.Errorf("backend %q", sb.Backend())
	}
}
