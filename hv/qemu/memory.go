package qemu

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"
)

// What is remembered of an accelerator that failed is forgotten after an hour:
// whoever mends the host doesn't know of this file, and a boot that hangs costs
// its timeout once in that time. That one works is remembered for a day, which
// spares every choice of a backend a boot; where it has ceased to, a start says so.
const (
	failureTime = time.Hour
	successTime = 24 * time.Hour
)

// A memory is what is kept of one accelerator, QEMU and kernel on one machine.
type memory struct {
	Works bool      `json:"works"`
	Why   string    `json:"why,omitempty"` // it doesn't
	When  time.Time `json:"when"`
}

// memoryKey names what is remembered of QEMU's program, a kernel and an
// accelerator: all that decides whether a boot can work.
func (h *Hypervisor) memoryKey(program, kernelPath, accelerator string) string {
	hash := sha256.New()
	// A machine's boot and its kernel: KVM comes and goes with them.
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	fmt.Fprintf(hash, "%s\n%s\n%s\n%s\n", runtime.GOARCH, boot, accelerator, h.cfg.Arch)
	for _, path := range []string{program, kernelPath} {
		fmt.Fprintln(hash, path)
		if info, err := os.Stat(path); err == nil {
			fmt.Fprintln(hash, info.Size(), info.ModTime().UnixNano())
		}
	}
	return hex.EncodeToString(hash.Sum(nil)[:16])
}

// memoryPath returns the file for a key; "" if nothing is kept.
func (h *Hypervisor) memoryPath(key string) string {
	if h.cfg.Memory == "" {
		return ""
	}
	return filepath.Join(h.cfg.Memory, key+".json")
}

// recall returns what is known of an accelerator; the zero memory if nothing is.
func (h *Hypervisor) recall(key string, now time.Time) memory {
	text, err := os.ReadFile(h.memoryPath(key))
	var m memory
	if err != nil || json.Unmarshal(text, &m) != nil {
		return memory{}
	}
	lasts := failureTime
	if m.Works {
		lasts = successTime
	}
	if age := now.Sub(m.When); age < 0 || age > lasts {
		return memory{}
	}
	return m
}

// remember keeps what was learnt. Where that can't be kept, the next boot finds out
// again.
func (h *Hypervisor) remember(key string, m memory) {
	path := h.memoryPath(key)
	text, err := json.Marshal(m)
	if path == "" || err != nil || os.MkdirAll(h.cfg.Memory, 0o700) != nil {
		return
	}
	h.forget(m.When)
	f, err := os.CreateTemp(h.cfg.Memory, "new-")
	if err != nil {
		return
	}
	_, err = f.Write(text)
	if f.Close() != nil || err != nil || os.Rename(f.Name(), path) != nil {
		os.Remove(f.Name())
	}
}

// forget removes what nobody will recall: each boot of the host has keys of its own.
func (h *Hypervisor) forget(now time.Time) {
	entries, _ := os.ReadDir(h.cfg.Memory)
	for _, e := range entries {
		if info, err := e.Info(); err == nil && now.Sub(info.ModTime()) > successTime {
			_ = os.Remove(filepath.Join(h.cfg.Memory, e.Name()))
		}
	}
}
