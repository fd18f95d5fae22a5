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
	if m := h.recall(key, now); m != (memory{}) {
		t.Errorf("before anything, recall = %+v", m)
	}
	h.remember(key, memory{Why: "it hung", When: now})
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
		if got := h.recall(row.key, now.Add(row.at)); got.Why != row.want || got.Works {
			t.Errorf("%s: recall = %+v; want %q", row.name, got, row.want)
		}
	}
	h.remember(key, memory{Works: true, When: now})
	for at, want := range map[time.Duration]bool{0: true, 23 * time.Hour: true, 25 * time.Hour: false} {
		if got := h.recall(key, now.Add(at)); got.Works != want || got.Why != "" {
			t.Errorf("%v after it worked, recall = %+v", at, got)
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
	if m := h.recall(key, now); m != (memory{}) {
		t.Errorf("from a damaged file, recall = %+v", m)
	}
	entries, err := os.ReadDir(h.cfg.Memory)
	if err != nil || len(entries) != 1 {
		t.Errorf("the directory has %v, %v", entries, err)
	}
}

// What is too old to be recalled is removed by the next that is kept.
func TestForget(t *testing.T) {
	t.Parallel()
	h := New(Config{Memory: t.TempDir()})
	now := time.Now()
	for key, age := range map[string]time.Duration{"old": 25 * time.Hour, "young": time.Hour} {
		h.remember(key, memory{Works: true, When: now.Add(-age)})
		if err := os.Chtimes(h.memoryPath(key), now.Add(-age), now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	h.remember("new", memory{Works: true, When: now})
	for key, want := range map[string]bool{"old": false, "young": true, "new": true} {
		if _, err := os.Stat(h.memoryPath(key)); (err == nil) != want {
			t.Errorf("%s: %v", key, err)
		}
	}
}

// Where nothing can be kept, nothing fails.
func TestMemoryNowhere(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"", "/proc/nowhere"} {
		h := &Hypervisor{cfg: Config{Memory: dir}}
		h.remember("key", memory{Why: "why", When: time.Now()})
		if m := h.recall("key", time.Now()); m != (memory{}) {
			t.Errorf("in %q, recall = %+v", dir, m)
		}
	}
}
