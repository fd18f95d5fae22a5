package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestWriteTarErrors shows that a root that was changed is noticed as far as it
// matters, and that WriteTar ends with its context.
func TestWriteTarErrors(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(workDir(t), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name   string
		change func(dir, f string) error
		want   string
	}{
		{"removed", func(_, f string) error { return os.Remove(f) }, "no such file"},
		{"a link out", func(_, f string) error { return errors.Join(os.Remove(f), os.Symlink(secret, f)) }, "escapes"},
		{"a directory", func(_, f string) error { return errors.Join(os.Remove(f), os.Mkdir(f, 0o700)) }, `"f" was changed`},
		{"no record", func(dir, _ string) error { return os.Remove(filepath.Join(dir, recordName)) }, "no such file"},
		{"another record", func(dir, _ string) error { return os.WriteFile(filepath.Join(dir, recordName), []byte("x"), 0o600) }, ""},
	} {
		_, img := mustUnpack(t, layer(t, file("f", "x")))
		if err := row.change(filepath.Dir(img.RootDir), filepath.Join(img.RootDir, "f")); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		err := img.WriteTar(t.Context(), &out)
		if err == nil || !strings.Contains(err.Error(), row.want) || strings.Contains(out.String(), "secret") {
			t.Errorf("%s: %v, want %q", row.name, err, row.want)
		}
	}
	_, img := mustUnpack(t, layer(t, file("f", "x")))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := img.WriteTar(ctx, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestWriteTarAgain shows that what WriteTar writes is a layer that gives the
// same image.
func TestWriteTarAgain(t *testing.T) {
	t.Parallel()
	_, first := mustUnpack(t, layer(t, dir("d").mode(0o1755).owner(7, 8).xattr("user.x", "1"), file("d/f", "x").mode(0o6755), hard("h", "d/f"),
		sym("l", "/d"), dev("null", 1, 3).owner(1, 2), fifo("p"), file("bin", "x").xattr("security.capability", "v").at(buildTime.Add(1234567))))
	once := tarOf(t, first)
	_, second := mustUnpack(t, once)
	if again := tarOf(t, second); !bytes.Equal(once, again) {
		t.Errorf("%q, and then %q", listing(t, once), listing(t, again))
	}
}
