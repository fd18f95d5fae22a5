package vz

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/internal/guest/kernel"
)

// head returns the beginning of a file with texts at offsets.
func head(texts map[int]string) []byte {
	b := make([]byte, kernel.HeadLen)
	for offset, text := range texts {
		copy(b[offset:], text)
	}
	return b
}

func TestKernelFlaw(t *testing.T) {
	t.Parallel()
	image := head(map[int]string{0: "MZ", 0x38: "ARM\x64"})
	bzImage := head(map[int]string{0: "MZ", 0x202: "HdrS\x0f\x02"})
	for _, row := range []struct {
		name string
		head []byte
		arch string
		want string // "" if it boots
	}{
		{"Image", image, "arm64", ""},
		{"bzImage", bzImage, "amd64", ""},
		{"Image on Intel", image, "amd64", "another processor"},
		{"bzImage on Apple silicon", bzImage, "arm64", "another processor"},
		{"an old bzImage", head(map[int]string{0x202: "HdrS\x05\x02"}), "amd64", "2.06"},
		{"Image.gz", []byte("\x1f\x8b\x08"), "arm64", "gunzip"},
		{"Image.zst", []byte("\x28\xb5\x2f\xfd"), "arm64", "unzstd"},
		{"vmlinuz.efi", head(map[int]string{0: "MZ\x00\x00zimg"}), "arm64", "EFI_ZBOOT"},
		{"vmlinux", []byte("\x7fELF\x02"), "arm64", "arch/arm64/boot/Image"},
		{"text", []byte("hello"), "arm64", "neither"},
		{"nothing", nil, "amd64", "neither"},
	} {
		got := kernelFlaw(row.head, row.arch)
		if row.want == "" && got != "" || !strings.Contains(got, row.want) {
			t.Errorf("%s: %q; want %q", row.name, got, row.want)
		}
	}
}

func TestCheckKernel(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "Image")
	if err := checkKernel(path, "arm64"); !os.IsNotExist(err) {
		t.Errorf("a kernel that isn't there: %v", err)
	}
	if err := os.WriteFile(path, head(map[int]string{0x38: "ARM\x64"}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := checkKernel(path, "arm64"); err != nil {
		t.Error(err)
	}
	if err := checkKernel(path, "amd64"); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("%v; want an error that names the file", err)
	}
}

// What is booted is found by paths that don't depend on a directory, and refused with
// its name where the framework would only say that it failed.
func TestPrepareBoot(t *testing.T) {
	t.Chdir(t.TempDir())
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	image := head(map[string]map[int]string{"amd64": {0x202: "HdrS\x0f\x02"}, "arm64": {0x38: "ARM\x64"}}[runtime.GOARCH])
	for name, text := range map[string][]byte{"vmlinuz": image, "vmlinux": head(map[int]string{0: "\x7fELF"}), "initrd": nil} {
		if err := os.WriteFile(name, append(text, make([]byte, 64<<10)...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg := diskConfig()
	cfg.Kernel, cfg.Initrd = "vmlinuz", "initrd"
	got, err := prepareBoot(t.Context(), cfg, t.TempDir())
	if want := (bootFiles{filepath.Join(here, "vmlinuz"), filepath.Join(here, "initrd")}); err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	for _, path := range []string{"vmlinux", "initrd", "nowhere"} {
		cfg.Kernel = path
		if _, err := prepareBoot(t.Context(), cfg, t.TempDir()); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v; want an error that names it", path, err)
		}
	}
}

func TestWriteFileIsNew(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f")
	if err := writeFile(path, bytes.NewReader([]byte("text"))); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "text" {
		t.Errorf("%q, %v", text, err)
	}
	if err := writeFile(path, bytes.NewReader(nil)); !os.IsExist(err) {
		t.Errorf("a second time: %v", err)
	}
}

func FuzzKernelFlaw(f *testing.F) {
	f.Add([]byte("\x7fELF"), true)
	f.Add(head(map[int]string{0x202: "HdrS"}), false)
	f.Fuzz(func(t *testing.T, head []byte, arm bool) {
		arch := map[bool]string{true: "arm64", false: "amd64"}[arm]
		other := map[bool]string{false: "arm64", true: "amd64"}[arm]
		if kernelFlaw(head, arch) == "" && kernelFlaw(head, other) == "" {
			t.Error("a kernel of both")
		}
	})
}
