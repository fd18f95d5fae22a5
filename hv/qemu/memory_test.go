package qemu

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// What was learnt is there for an hour, for what it was learnt of.
func TestMemory(t *testing.T) {
	t.Parallel()
	h := New(Config{Memory: filepath.Join(t.TempDir(), "deep", "memory"), Arch: "amd64"})
	now := time.Now()
	program := filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(program, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	const image = "/boot/vmlinuz"
	key := h.memoryKey(program, image, kvm)
	if why := h.recall(key, now); why != "" {
		t.Errorf("before anything, recall = %q", why)
	}
	h.remember(key, "it hung", now)
	for _, row := range []struct {
		name string
		key  string
		at   time.Duration
		want string
	}{
		{"at once", key, 0, "it hung"},
		{"soon", key, 59 * time.Minute, "it hung"},
		{"late", key, 61 * time.Minute, ""},
		{"the clock was set back", key, -time.Minute, ""},
		{"another accelerator", h.memoryKey(program, image, tcg), 0, ""},
		{"another kernel", h.memoryKey(program, "/boot/other", kvm), 0, ""},
		{"another QEMU", h.memoryKey("/bin/true", image, kvm), 0, ""},
	} {
		if got := h.recall(row.key, now.Add(row.at)); got != row.want {
			t.Errorf("%s: recall = %q; want %q", row.name, got, row.want)
		}
	}
	// QEMU was updated.
	if err := os.WriteFile(program, []byte("new"), 0o755); err != nil {
		t.Fatal(err)
	}
	if again := h.memoryKey(program, image, kvm); again == key {
		t.Error("another program at the same path has the same key")
	}
	if err := os.WriteFile(h.memoryPath(key), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if why := h.recall(key, now); why != "" {
		t.Errorf("from a damaged file, recall = %q", why)
	}
	entries, err := os.ReadDir(h.cfg.Memory)
	if err != nil || len(entries) != 1 {
		t.Errorf("the directory has %v, %v", entries, err)
	}
}

// Where nothing can be kept, nothing fails.
func TestMemoryNowhere(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"", "/proc/nowhere"} {
		h := &Hypervisor{cfg: Config{Memory: dir}}
		h.remember("key", "why", time.Now())
		if why := h.recall("key", time.Now()); why != "" {
			t.Errorf("in %q, recall = %q", dir, why)
		}
	}
}
