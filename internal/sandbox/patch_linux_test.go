package sandbox

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/internal/control"
)

// TestPatches applies every kind of patch to an image's root and looks at it from
// inside.
func TestPatches(t *testing.T) {
	t.Parallel()
	needNamespaces(t)
	dirs, host := testDirs(t), t.TempDir()
	for name, content := range map[string]string{"file": "copied\n", "dir/a": "a\n", "dir/sub/b": "b\n"} {
		path := filepath.Join(host, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("sub/b", filepath.Join(host, "dir", "link")); err != nil {
		t.Fatal(err)
	}
	mode := uint32(0o4711)
	cfg := testConfig{Image: cachedImage(t, dirs), Patches: []Patch{
		{Kind: PatchText, Path: "/made/by/text", Content: "text\n", Mode: &mode},
		{Kind: PatchAppend, Path: "/etc/motd", Content: "and more\n"},
		{Kind: PatchText, Path: "/made/by/text", Content: "again\n", Replace: true},
		{Kind: PatchMkdir, Path: "/made/dir"},
		{Kind: PatchMkdir, Path: "/etc"},
		{Kind: PatchSymlink, Path: "/made/link", Target: "by/text"},
		{Kind: PatchCopyFile, Source: filepath.Join(host, "file"), Path: "/made/copy"},
		{Kind: PatchCopyDir, Source: filepath.Join(host, "dir"), Path: "/made/tree"},
		{Kind: PatchText, Path: "/gone/x", Content: "x"},
		{Kind: PatchRemove, Path: "/gone"},
		{Kind: PatchRemove, Path: "/never/was"},
		// A link of the root's to a directory of the host leads into the root.
		{Kind: PatchMkdir, Path: host},
		{Kind: PatchSymlink, Path: "/escape", Target: host},
		{Kind: PatchText, Path: "/escape/caught", Content: "inside\n"},
	}}
	p, err := launch(t.Context(), dirs, "patched", cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c := control.NewClient(p.Ready().Socket)
	defer c.Close()
	for _, tt := range []struct{ script, want string }{
		{"busybox cat /made/by/text /made/link /made/copy /made/tree/a /made/tree/link", "again\nagain\ncopied\na\nb\n"},
		{"busybox cat /etc/motd", "from an image\nand more\n"},
		{"busybox stat -c '%a %F' /made/dir /made/copy /made/by/text /made/tree/sub", "755 directory\n640 regular file\n644 regular file\n755 directory\n"},
		{"busybox readlink /made/link; busybox readlink /made/tree/link", "by/text\nsub/b\n"},
		{"test -e /gone || echo no", "no\n"},
		{"busybox cat /escape/caught " + host + "/caught", "inside\ninside\n"},
	} {
		got, err := run(t.Context(), c, control.Command{Args: []string{"/bin/sh", "-c", tt.script}, Env: []string{"PATH=/bin"}}, "")
		if err != nil || got.out != tt.want {
			t.Errorf("%s: %q %q, %v, want %q", tt.script, got.out, got.errs, err, tt.want)
		}
	}
	if _, err := os.Stat(filepath.Join(host, "caught")); err == nil {
		t.Error("a patch has written to the host")
	}
}

// TestPatchFails checks that a patch that can't be made fails the creation and
// leaves nothing.
func TestPatchFails(t *testing.T) {
	t.Parallel()
	needNamespaces(t)
	dirs := testDirs(t)
	digest := cachedImage(t, dirs)
	for _, tt := range []struct {
		patch Patch
		want  string
	}{
		{Patch{Kind: PatchText, Path: "/etc/motd"}, "something is there"},
		{Patch{Kind: PatchAppend, Path: "/none"}, "not exist"},
		{Patch{Kind: PatchText, Path: "/etc/motd/x"}, "make /etc/motd"},
		{Patch{Kind: PatchCopyFile, Path: "/x", Source: "/none"}, "no such file"},
		{Patch{Kind: PatchCopyFile, Path: "/x", Source: os.DevNull}, "is no file"},
		{Patch{Kind: PatchCopyDir, Path: "/x", Source: "/dev/pts"}, "is no file, directory or link"},
		{Patch{Kind: "chmod", Path: "/x"}, "no such patch"},
	} {
		_, err := launch(t.Context(), dirs, "unpatched", testConfig{Image: digest, Patches: []Patch{tt.patch}})
		if kind(err) != control.KindPatchFailed || !strings.Contains(err.Error(), "WithPatches[0]: ") || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.patch.Kind, err, tt.want)
		}
		checkEmpty(t, dirs)
	}
	_, err := launch(t.Context(), dirs, "no-image", testConfig{Image: "sha256:" + strings.Repeat("0", 64)})
	if kind(err) != control.KindImageNotFound {
		t.Errorf("an image that isn't there: %v", err)
	}
	checkEmpty(t, dirs)
}
