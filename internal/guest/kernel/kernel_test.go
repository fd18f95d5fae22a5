package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// bzImage returns the head of an amd64 kernel's image of a version; "" is one
// that doesn't say.
func bzImage(version string) []byte {
	image := make([]byte, 8192)
	copy(image[0x202:], "HdrS")
	if version != "" {
		binary.LittleEndian.PutUint16(image[0x20e:], 0x1000)
		copy(image[0x1200:], version+" (builder@host) #1 SMP\x00")
	}
	return image
}

// write writes a file below root, and its directories.
func write(t *testing.T, root, path string, content []byte) {
	t.Helper()
	path = filepath.Join(root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

// The newest kernel that is whole is taken, libkrunfw's before it.
func TestFind(t *testing.T) {
	t.Parallel()
	modules := []byte("kernel/a.ko:\n")
	for _, row := range []struct {
		name  string
		files map[string][]byte
		want  string // path; "" is an error
		says  string // in the error
	}{
		{"nothing", nil, "", "no kernel for guests was found"},
		{"one", map[string][]byte{"boot/vmlinuz-6.1.0": bzImage("6.1.0"), "lib/modules/6.1.0/modules.dep": modules}, "/boot/vmlinuz-6.1.0", ""},
		{"newest by number", map[string][]byte{
			"boot/vmlinuz-6.9.0": bzImage("6.9.0"), "lib/modules/6.9.0/modules.dep": modules,
			"boot/vmlinuz-6.10.0": bzImage("6.10.0"), "lib/modules/6.10.0/modules.dep": modules,
		}, "/boot/vmlinuz-6.10.0", ""},
		{"newest lacks its modules", map[string][]byte{
			"boot/vmlinuz-6.1.0": bzImage("6.1.0"), "lib/modules/6.1.0/modules.dep": modules, "boot/vmlinuz-6.2.0": bzImage("6.2.0"),
		}, "/boot/vmlinuz-6.1.0", ""},
		{"no modules", map[string][]byte{"boot/vmlinuz-6.2.0": bzImage("6.2.0")}, "", "its modules are not in /lib/modules/6.2.0"},
		{"modules in /usr", map[string][]byte{"boot/vmlinuz-6.1.0": bzImage("6.1.0"), "usr/lib/modules/6.1.0/modules.dep": modules}, "/boot/vmlinuz-6.1.0", ""},
		{"beside its modules", map[string][]byte{"lib/modules/6.1.0/vmlinuz": bzImage("6.1.0"), "lib/modules/6.1.0/modules.dep": modules}, "/lib/modules/6.1.0/vmlinuz", ""},
		{"no kernel at all", map[string][]byte{"boot/vmlinuz-1": bytes.Repeat([]byte("x"), 8192)}, "", "it is no kernel for amd64"},
		{"too short", map[string][]byte{"boot/vmlinuz-1": []byte("x")}, "", "too short"},
		{"version beyond the end", map[string][]byte{"boot/vmlinuz-1": bzImage("6.1.0")[:0x1210]}, "", "beyond its end"},
		{"version is a path", map[string][]byte{"boot/vmlinuz-1": bzImage("../../etc")}, "/boot/vmlinuz-1", ""},
		{"libkrunfw first", map[string][]byte{
			"boot/vmlinuz-6.1.0": bzImage("6.1.0"), "lib/modules/6.1.0/modules.dep": modules, "usr/lib64/libkrunfw.so.5": library(bundleImage()),
		}, "/usr/lib64/libkrunfw.so.5", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			for path, content := range row.files {
				write(t, root, path, content)
			}
			k, err := Find(Query{Arch: "amd64", root: root})
			if row.want == "" {
				var missing *MissingError
				if !errors.As(err, &missing) || !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), row.says) || missing.Fix == "" {
					t.Errorf("Find = %+v, %v; want a MissingError that says %q and a fix", k, err, row.says)
				}
				return
			}
			if err != nil || k.Path != root+row.want {
				t.Errorf("Find = %+v, %v; want %s", k, err, row.want)
			}
		})
	}
}

// A kernel that is named is taken as it is, or refused; no other is looked for.
func TestFindNamed(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	write(t, root, "boot/vmlinuz-6.1.0", bzImage("6.1.0"))
	write(t, root, "lib/modules/6.1.0/modules.dep", nil)
	write(t, root, "mine", bzImage("7.0.0"))
	write(t, root, "unsaid", bzImage(""))
	write(t, root, "vmlinux", append([]byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x3e\x00"), make([]byte, 8192)...))
	write(t, root, "Image", append(append(make([]byte, 56), "ARM\x64"...), make([]byte, 8192)...))
	write(t, root, "libkrunfw.so.5", library(bundleImage()))
	for _, row := range []struct {
		file, arch string
		want       Kernel // without Path and arch
		says       string // in the error
	}{
		{"mine", "amd64", Kernel{Version: "7.0.0"}, ""},
		{"boot/vmlinuz-6.1.0", "amd64", Kernel{Version: "6.1.0", Modules: root + "/lib/modules/6.1.0"}, ""},
		{"unsaid", "amd64", Kernel{}, ""},
		{"vmlinux", "amd64", Kernel{}, ""},
		{"vmlinux", "arm64", Kernel{}, "no kernel for arm64"},
		{"Image", "arm64", Kernel{}, ""},
		{"Image", "amd64", Kernel{}, "no kernel for amd64"},
		{"libkrunfw.so.5", "amd64", Kernel{Bundled: true}, ""},
		{"libkrunfw.so.5", "arm64", Kernel{}, "not for arm64"},
		{"mine", "arm64", Kernel{}, "no kernel for arm64"},
		{"mine", "riscv64", Kernel{}, "no support for guests on riscv64"},
		{"none", "amd64", Kernel{}, "no such file"},
	} {
		k, err := Find(Query{Path: filepath.Join(root, row.file), Arch: row.arch, root: root})
		if row.says != "" {
			if err == nil || !strings.Contains(err.Error(), row.says) {
				t.Errorf("Find(%s, %s) = %+v, %v; want an error that says %q", row.file, row.arch, k, err, row.says)
			}
			continue
		}
		row.want.Path, row.want.arch = filepath.Join(root, row.file), row.arch
		if err != nil || k != row.want {
			t.Errorf("Find(%s, %s) = %+v, %v; want %+v", row.file, row.arch, k, err, row.want)
		}
	}
}

// The host's own kernels won't do for another processor's guests.
func TestFindForeign(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	write(t, root, "boot/vmlinuz-6.1.0", bzImage("6.1.0"))
	write(t, root, "lib/modules/6.1.0/modules.dep", nil)
	_, err := Find(Query{Arch: "amd64", Foreign: true, root: root})
	var missing *MissingError
	if !errors.As(err, &missing) || !strings.Contains(missing.Fix, "SLUICE_KERNEL") {
		t.Errorf("Find = %v; want a MissingError with a way out", err)
	}
}

func TestNewestFirst(t *testing.T) {
	t.Parallel()
	got := newestFirst([]string{"k-6.1.0-9", "k-6.1.0-56", "k-6.10", "k-6.1.0", "k-5.19", "k-6.01.0-57", "k-6.1.0-rc1"})
	want := []string{"k-6.10", "k-6.1.0-rc1", "k-6.01.0-57", "k-6.1.0-56", "k-6.1.0-9", "k-6.1.0", "k-5.19"}
	if !slices.Equal(got, want) {
		t.Errorf("newestFirst = %q; want %q", got, want)
	}
}

// What Open makes has no name that another user could open, and can only be read.
func TestOpen(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	write(t, root, "plain", bzImage("6.1.0"))
	write(t, root, "libkrunfw.so.5", library(bundleImage()))
	for _, name := range []string{"plain", "libkrunfw.so.5"} {
		k, err := Find(Query{Path: filepath.Join(root, name), Arch: "amd64", root: root})
		if err != nil {
			t.Fatal(err)
		}
		f, err := k.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		content, err := io.ReadAll(f)
		if err != nil || len(content) == 0 {
			t.Errorf("%s: read %d bytes, %v", name, len(content), err)
		}
		if _, err := f.Write([]byte("x")); err == nil {
			t.Errorf("%s can be written", name)
		}
		if _, err := os.Stat(f.Name()); k.Bundled && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s has a name still: %v", name, err)
		}
	}
}

// Whatever a file is, Find answers.
func FuzzFind(f *testing.F) {
	f.Add(bzImage("6.1.0")[:5000], "amd64")
	f.Add(library(bundleImage()), "amd64")
	f.Add(library(bundleImage()), "arm64")
	f.Add(machO(bundleImage()), "arm64")
	f.Fuzz(func(t *testing.T, content []byte, arch string) {
		path := filepath.Join(t.TempDir(), "kernel-1")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := Find(Query{Path: path, Arch: arch, root: t.TempDir()})
		if err != nil {
			return
		}
		if strings.ContainsAny(k.Version, "/\x00") {
			t.Errorf("version %q is no name", k.Version)
		}
		if image, err := k.Open(); err == nil {
			image.Close()
		}
	})
}
