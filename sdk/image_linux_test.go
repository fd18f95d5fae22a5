package sdk_test

import (
	"errors"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/sluicenet/sluice/internal/image/imagetest"
	"github.com/sluicenet/sluice/internal/netlab"
	m "github.com/sluicenet/sluice/sdk"
)

// busybox returns an image of a static busybox, with a configuration.
func busybox(t *testing.T, cfg v1.Config) v1.Image {
	t.Helper()
	img, err := imagetest.Busybox(cfg)
	if errors.Is(err, exec.ErrNotFound) {
		netlab.Skip(t, "busybox", err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// archive writes an image to a docker archive and returns its path.
func archive(t *testing.T, img v1.Image) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := imagetest.Archive(path, archivedName, img); err != nil {
		t.Fatal(err)
	}
	return path
}

// archivedName is what archived images are called.
const archivedName = "built.example/test:1"

// busyboxArchive returns the path of a docker archive for an example, which
// removes it.
func busyboxArchive() (string, error) {
	img, err := imagetest.Busybox(v1.Config{Cmd: []string{"sh"}})
	if err != nil {
		return "", err
	}
	f, err := os.CreateTemp("", "busybox-*.tar")
	if err != nil {
		return "", err
	}
	return f.Name(), errors.Join(f.Close(), imagetest.Archive(f.Name(), archivedName, img))
}

// load brings the busybox image here under a name.
func load(t *testing.T, names ...string) {
	t.Helper()
	if _, err := m.Image.Load(t.Context(), archive(t, busybox(t, v1.Config{Cmd: []string{"sh"}})), names...); err != nil {
		t.Fatal(err)
	}
}

// TestImages checks what happens to images that are here.
func TestImages(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	path := archive(t, busybox(t, v1.Config{
		Env: []string{"GREETING=hello"}, Entrypoint: []string{"echo"}, Cmd: []string{"a", "b"}, WorkingDir: "/srv", User: "app",
		Labels: map[string]string{"of": "the test"}, StopSignal: "SIGINT",
	}))
	loaded, err := m.Image.Load(ctx, path, "images.example/one:1", "images.example/two:2")
	if err != nil || len(loaded) != 2 {
		t.Fatalf("loaded %v, %v", loaded, err)
	}
	h, err := m.Image.Get(ctx, "images.example/one:1")
	if err != nil {
		t.Fatal(err)
	}
	if h.Reference() != "images.example/one:1" || h.OS() != "linux" || h.Architecture() != testArch || h.LayerCount() != 1 ||
		*h.SizeBytes() == 0 || h.CreatedAt().IsZero() || h.Damaged() || !strings.HasPrefix(h.ManifestDigest(), "sha256:") {
		t.Errorf("image %+v", h)
	}
	d, err := h.Inspect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Names) != 2 || d.Config.User != "app" || d.Config.WorkingDir != "/srv" || d.Config.Env[0] != "GREETING=hello" ||
		len(d.Layers) != 1 || d.Layers[0].DiffID == "" || len(d.Manifest) == 0 || len(d.RawConfig) == 0 {
		t.Errorf("details %+v of %+v", d, d.Config)
	}
	list, err := m.Image.List(ctx)
	if err != nil || len(list) < 2 {
		t.Errorf("list %v, %v", list, err)
	}
	saved := filepath.Join(t.TempDir(), "saved.tar")
	if err := m.Image.Save(ctx, []string{"images.example/one:1"}, saved, m.ImageArchiveOCI); err != nil {
		t.Fatal(err)
	}
	if err := m.Image.Save(ctx, []string{"images.example/none"}, saved+".2", ""); !m.IsKind(err, m.ErrImageNotFound) {
		t.Errorf("save what isn't there: %v", err)
	}
	if _, err := os.Stat(saved + ".2"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a failed save leaves %v", err)
	}
	if err := m.Image.Save(ctx, nil, saved, "zip"); !m.IsKind(err, m.ErrInvalidArgument) {
		t.Errorf("save as zip: %v", err)
	}
	for _, ref := range []string{"images.example/one:1", "images.example/two:2"} {
		if err := m.Image.Remove(ctx, ref, false); err != nil {
			t.Error(err)
		}
	}
	if _, err := m.Image.Get(ctx, "images.example/one:1"); !m.IsKind(err, m.ErrImageNotFound) {
		t.Errorf("get what was removed: %v", err)
	}
	if again, err := m.Image.Load(ctx, saved); err != nil || len(again) != 1 || again[0].Reference() != "images.example/one:1" {
		t.Errorf("load what was saved: %v, %v", again, err)
	}
	if err := m.Image.Remove(ctx, "images.example/one:1", true); err != nil {
		t.Error(err)
	}
	if report, err := m.Image.Prune(ctx); err != nil || report.BytesReclaimed == nil {
		t.Errorf("prune: %+v, %v", report, err)
	}
	if _, err := m.Image.Load(ctx, filepath.Join(t.TempDir(), "none.tar")); !m.IsKind(err, m.ErrPathNotFound) {
		t.Errorf("load what isn't there: %v", err)
	}
	if _, err := m.Image.Get(ctx, "UPPER case"); !m.IsKind(err, m.ErrInvalidArgument) && !m.IsKind(err, m.ErrImageNotFound) {
		t.Errorf("get no name: %v", err)
	}
}

// TestPull checks a registry that wants a password, and what policies ask of it.
func TestPull(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := httptest.NewServer(registry.New())
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	ref, err := name.ParseReference(host + "/app:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, busybox(t, v1.Config{})); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Image.Pull(ctx, ref.String(), m.WithPullPolicy(m.PullPolicyNever)); !m.IsKind(err, m.ErrImageNotFound) {
		t.Errorf("never: %v", err)
	}
	var steps []string
	h, err := m.Image.Pull(ctx, ref.String(), m.WithRegistryInsecure(), m.WithPullProgress(func(p m.PullProgress) { steps = append(steps, p.Kind) }))
	if err != nil {
		t.Fatal(err)
	}
	if len(steps) == 0 || steps[0] != "resolving" || steps[len(steps)-1] != "finished" {
		t.Errorf("steps %q", steps)
	}
	server.Close()
	if again, err := m.Image.Pull(ctx, ref.String()); err != nil || again.ManifestDigest() != h.ManifestDigest() {
		t.Errorf("without the registry: %v, %v", again, err)
	}
	if _, err := m.Image.Pull(ctx, ref.String(), m.WithPullPolicy(m.PullPolicyAlways), m.WithRegistryInsecure()); !m.IsKind(err, m.ErrImagePullFailed) {
		t.Errorf("always, without the registry: %v", err)
	}
	if _, err := m.Image.Pull(ctx, ref.String(), m.WithPullPolicy("x")); !m.IsKind(err, m.ErrInvalidArgument) {
		t.Errorf("policy x: %v", err)
	}
}

// TestRunImage checks that what an image says holds where no option does.
func TestRunImage(t *testing.T) {
	t.Parallel()
	path := archive(t, busybox(t, v1.Config{
		Env: []string{"GREETING=hello", "PATH=/bin"}, Entrypoint: []string{"echo"}, Cmd: []string{"a", "b"}, WorkingDir: "/srv",
	}))
	if _, err := m.Image.Load(t.Context(), path, "run.example/app"); err != nil {
		t.Fatal(err)
	}
	image := m.WithImage("run.example/app")
	for _, tt := range []struct {
		name string
		args []string // none is the default command
		opts []m.SandboxOption
		want string
	}{
		{"default", nil, nil, "a b\n"},
		{"command", nil, []m.SandboxOption{m.WithCmd("c")}, "c\n"},
		{"entrypoint", nil, []m.SandboxOption{m.WithEntrypoint("cat", "/etc/motd")}, "hello from the image\n"},
		{"environment", []string{"env"}, []m.SandboxOption{m.WithEnv(map[string]string{"A": "b"})}, "A=b\nGREETING=hello\nHOME=/root\nLOGNAME=root\nPATH=/bin\nUSER=root\n"},
		{"workdir", []string{"pwd"}, nil, "/srv\n"},
		{"own workdir", []string{"pwd"}, []m.SandboxOption{m.WithWorkdir("/etc")}, "/etc\n"},
		{"root can be written", []string{"sh", "-c", "echo x > /etc/motd && cat /etc/motd"}, nil, "x\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, code := output(t, "image-"+strings.ReplaceAll(tt.name, " ", "-"), tt.args, append(tt.opts, image)...)
			if tt.name == "environment" {
				got = strings.ReplaceAll(strings.ReplaceAll(got, "PWD=/srv\n", ""), "SHLVL=1\n", "")
			}
			if got != tt.want || code != 0 {
				t.Errorf("%q and exit code %d, want %q", got, code, tt.want)
			}
		})
	}
	if _, err := m.CreateSandbox(t.Context(), "no-image", inNamespace(t, m.WithImage("none.example/x"), m.WithPullPolicy("never"))...); !m.IsKind(err, m.ErrImageNotFound) {
		t.Errorf("an image that isn't there: %v", err)
	}
}

// TestImageIsKept checks that a sandbox that was stopped still has its image, and
// its patches, and what was written to it.
func TestImageIsKept(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	// Its digest is nobody else's, so that the name is its last.
	own := archive(t, busybox(t, v1.Config{Labels: map[string]string{"of": t.Name()}}))
	if _, err := m.Image.Load(ctx, own, "kept.example/root"); err != nil {
		t.Fatal(err)
	}
	image := m.WithImage("kept.example/root")
	sb := running(t, "kept-root", image, m.WithEphemeral(false), m.WithPatches(m.Patch.Text("/etc/patched", "x", m.PatchOptions{})))
	if w := strings.Join(sb.Warnings(), "\n"); strings.Contains(w, "gone when") {
		t.Errorf("warnings %q", w)
	}
	if err := sb.FS().WriteString(ctx, "/srv/file", "kept"); err != nil {
		t.Fatal(err)
	}
	if out, err := sb.Shell(ctx, "rm /etc/motd; echo own >> /etc/patched; chown 5:5 /srv/file"); err != nil || !out.Success() {
		t.Fatal(out, err)
	}
	if err := sb.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if err := m.Image.Remove(ctx, "kept.example/root", false); !m.IsKind(err, m.ErrImageInUse) {
		t.Errorf("its image could be removed: %v", err)
	}
	again, err := m.StartSandbox(ctx, "kept-root")
	if err != nil {
		t.Fatal(err)
	}
	if text, err := again.FS().ReadString(ctx, "/etc/patched"); text != "xown\n" || err != nil {
		t.Errorf("read %q, %v", text, err)
	}
	if text, err := again.FS().ReadString(ctx, "/srv/file"); text != "kept" || err != nil {
		t.Errorf("read %q, %v", text, err)
	}
	if ok, err := again.FS().Exists(ctx, "/etc/motd"); ok || err != nil {
		t.Errorf("what was removed is there: %v, %v", ok, err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
	if err := m.RemoveSandbox(ctx, "kept-root"); err != nil {
		t.Error(err)
	}
	if err := m.Image.Remove(ctx, "kept.example/root", false); err != nil {
		t.Error(err)
	}
}

// TestPatches checks what each patch makes of the root, and what it refuses.
func TestPatches(t *testing.T) {
	t.Parallel()
	load(t, "patches.example/app")
	dir := t.TempDir()
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "sub"), 0o755),
		os.WriteFile(filepath.Join(dir, "sub", "file"), []byte("copied\n"), 0o640),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var none m.PatchOptions
	replace := m.PatchOptions{Replace: true}
	for _, tt := range []struct {
		name   string
		patch  m.PatchConfig
		script string // whose output is want; "" for a patch that fails
		want   string
	}{
		{"text", m.Patch.Text("/etc/new/file", "text\n", m.PatchOptions{Mode: ptr(uint32(0o600))}), "cat /etc/new/file; ls -l /etc/new/file | head -c 10", "text\n-rw-------"},
		{"text replaces", m.Patch.Text("/etc/motd", "other\n", replace), "cat /etc/motd", "other\n"},
		{"text over a file", m.Patch.Text("/etc/motd", "", none), "", ""},
		{"append", m.Patch.Append("/etc/motd", "and more\n"), "cat /etc/motd", "hello from the image\nand more\n"},
		{"append to nothing", m.Patch.Append("/etc/none", ""), "", ""},
		{"mkdir", m.Patch.Mkdir("/a/b", none), "test -d /a/b && echo yes", "yes\n"},
		{"remove", m.Patch.Remove("/etc/motd"), "test -e /etc/motd || echo gone", "gone\n"},
		{"remove nothing", m.Patch.Remove("/etc/none"), "echo fine", "fine\n"},
		{"symlink", m.Patch.Symlink("motd", "/etc/link", none), "cat /etc/link", "hello from the image\n"},
		{"copy file", m.Patch.CopyFile(filepath.Join(dir, "sub", "file"), "/srv/file", none), "cat /srv/file", "copied\n"},
		{"copy directory", m.Patch.CopyDir(dir, "/srv/dir", none), "cat /srv/dir/sub/file", "copied\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			sb, err := m.CreateSandbox(t.Context(), "patch-"+strings.ReplaceAll(tt.name, " ", "-"),
				inNamespace(t, m.WithImage("patches.example/app"), m.WithPatches(tt.patch))...)
			if tt.script == "" {
				if !m.IsKind(err, m.ErrPatchFailed) {
					t.Errorf("%v, want %v", err, m.ErrPatchFailed)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer sb.Close()
			if out, err := sb.Shell(t.Context(), tt.script); err != nil || out.Stdout() != tt.want {
				t.Errorf("%q, %q, %v, want %q", out.Stdout(), out.Stderr(), err, tt.want)
			}
		})
	}
}
