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
// its timeout once in that time.
const memoryTime = time.Hour

// A memory is what is kept of one accelerator, QEMU and kernel on one machine.
type memory struct {
	Why  string    `json:"why"`
	When time.Time `json:"when"`
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

// recall returns why an accelerator failed; "" if it isn't known to.
func (h *Hypervisor) recall(key string, now time.Time) string {
	text, err := os.ReadFile(h.memoryPath(key))
	var m memory
	if err != nil || json.Unmarshal(text, &m) != nil {
		return ""
	}
	if age := now.Sub(m.When); age < 0 || age > memoryTime {
		return ""
	}
	return m.Why
}

// remember keeps why an accelerator failed. Where that can't be kept, the next
// boot finds out again.
func (h *Hypervisor) remember(key, why string, now time.Time) {
	path := h.memoryPath(key)
	text, err := json.Marshal(memory{Why: why, When: now})
	if path == "" || err != nil || os.MkdirAll(h.cfg.Memory, 0o700) != nil {
		return
	}
	f, err := os.CreateTemp(h.cfg.Memory, "new-")
	if err != nil {
		return
	}
	_, err = f.Write(text)
	if f.Close() != nil || err != nil || os.Rename(f.Name(), path) != nil {
		os.Remove(f.Name())
	}
}
