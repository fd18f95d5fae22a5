package kernel

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A directory of the caller's is looked through like a host's root, and whatever its
// links name outside of it is not read: it may be anybody's image.
func TestFindDirectory(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	write(t, outside, "vmlinuz", bzImage("6.1.0"))
	write(t, outside, "6.1.0/modules.dep", []byte("kernel/a.ko:\n"))
	modules := []byte("kernel/a.ko:\n")
	for _, row := range []struct {
		name  string
		files map[string][]byte
		links map[string]string
		want  string // path; "" is an error
		has   bool   // modules
		says  string // in the error
	}{
		{"empty", nil, nil, "", false, "has no boot/vmlinuz-VERSION"},
		{"a package", map[string][]byte{"boot/vmlinuz-6.1.0": bzImage("6.1.0"), "lib/modules/6.1.0/modules.dep": modules}, nil, "boot/vmlinuz-6.1.0", true, ""},
		{"merged /usr", map[string][]byte{"boot/vmlinuz-6.1.0": bzImage("6.1.0"), "usr/lib/modules/6.1.0/modules.dep": modules}, map[string]string{"lib": "usr/lib"}, "boot/vmlinuz-6.1.0", true, ""},
		{"beside its modules", map[string][]byte{"usr/lib/modules/6.1.0/vmlinuz": bzImage("6.1.0"), "usr/lib/modules/6.1.0/modules.dep": modules}, nil, "usr/lib/modules/6.1.0/vmlinuz", true, ""},
		{"without a version in its name", map[string][]byte{"boot/vmlinuz": bzImage("")}, nil, "boot/vmlinuz", false, ""},
		{"no modules", map[string][]byte{"boot/vmlinuz-6.1.0": bzImage("6.1.0")}, nil, "", false, "its modules are not in /lib/modules/6.1.0"},
		{"a link to the host's kernel", nil, map[string]string{"boot/vmlinuz-6.1.0": outside + "/vmlinuz"}, "", false, "escapes"},
		{"a link up to the host's kernel", nil, map[string]string{"boot": "../" + filepath.Base(outside)}, "", false, "boot/vmlinuz-VERSION"},
		{"a link to the host's modules", map[string][]byte{"boot/vmlinuz-6.1.0": bzImage("6.1.0")}, map[string]string{"lib/modules": outside}, "", false, "its modules are not in"},
		{"a directory", map[string][]byte{"boot/vmlinuz-6.1.0/file": nil}, nil, "", false, "it is no file"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for path, content := range row.files {
				write(t, dir, path, content)
			}
			for path, target := range row.links {
				if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(target, filepath.Join(dir, path)); err != nil {
					t.Fatal(err)
				}
			}
			k, err := Find(Query{Path: dir + "/", Arch: "amd64", Foreign: true})
			if row.want == "" {
				var missing *MissingError
				if !errors.As(err, &missing) || !strings.Contains(err.Error(), row.says) || !strings.Contains(missing.Fix, "boot/vmlinuz-VERSION") {
					t.Errorf("Find = %+v, %v; want a MissingError that says %q and a fix", k, err, row.says)
				}
				return
			}
			if err != nil || k.Path != filepath.Join(dir, row.want) || (k.Modules != "") != row.has {
				t.Errorf("Find = %+v, %v; want %s", k, err, row.want)
			}
		})
	}
}

// A module that a link puts outside of the directory is not packed for the guest.
func TestDirectoryModules(t *testing.T) {
	t.Parallel()
	dir, outside := t.TempDir(), t.TempDir()
	write(t, outside, "secret", []byte("the host's"))
	write(t, dir, "boot/vmlinuz-6.1.0", bzImage("6.1.0"))
	write(t, dir, "lib/modules/6.1.0/modules.dep", []byte("kernel/good.ko:\nkernel/bad.ko:\n"))
	write(t, dir, "lib/modules/6.1.0/kernel/good.ko", []byte("good"))
	if err := os.Symlink(outside+"/secret", filepath.Join(dir, "lib/modules/6.1.0/kernel/bad.ko")); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "agent", []byte("agent"))
	k, err := Find(Query{Path: dir, Arch: "amd64"})
	if err != nil {
		t.Fatal(err)
	}
	f, err := k.Initramfs(dir+"/agent", "/init", "/modules", []string{"good"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if text, err := io.ReadAll(f); err != nil || !strings.Contains(string(text), "000-good.ko") {
		t.Errorf("the initramfs has no module, %v", err)
	}
	if _, err := k.Initramfs(dir+"/agent", "/init", "/modules", []string{"bad"}, nil); err == nil || !strings.Contains(err.Error(), "escapes") {
		t.Errorf("a module outside: %v", err)
	}
	if image, err := k.Open(); err != nil {
		t.Error(err)
	} else {
		image.Close()
	}
}

// The name of an image is no path.
func TestFindUnpulled(t *testing.T) {
	t.Parallel()
	if _, err := Find(Query{Path: ImagePrefix + "kernel:6", Arch: "amd64"}); err == nil || !strings.Contains(err.Error(), "pulled") {
		t.Errorf("Find = %v; want that nobody has pulled it", err)
	}
}
