package krun

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sluicenet/sluice/hv"
)

// A memory is what a boot showed, and under which circumstances.
type memory struct {
	Key    string    `json:"key"`
	Report hv.Report `json:"report"`
}

// memoryFile returns the path of the file that outlives the process; "" if there
// is no place for it.
func (h *Hypervisor) memoryFile() string {
	dir := h.cache
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return ""
		}
		dir = filepath.Join(user, "sluice")
	}
	return filepath.Join(dir, "krun-probe.json")
}

// remembered returns what is remembered; nil if nothing is. The caller holds mu.
func (h *Hypervisor) remembered() *memory {
	if h.probed != nil {
		return h.probed
	}
	text, err := os.ReadFile(h.memoryFile())
	if err != nil {
		return nil
	}
	m := new(memory)
	if json.Unmarshal(text, m) != nil {
		return nil
	}
	return m
}

// remember keeps m. Where the file can't be written the next process boots again.
// The caller holds mu.
func (h *Hypervisor) remember(m *memory) {
	h.probed = m
	path := h.memoryFile()
	text, err := json.Marshal(m)
	if path == "" || err != nil || os.MkdirAll(filepath.Dir(path), 0o700) != nil {
		return
	}
	// Another process may write too: whole files take each other's place.
	temporary := fmt.Sprintf("%s.%d", path, os.Getpid())
	if os.WriteFile(temporary, text, 0o600) == nil {
		_ = os.Rename(temporary, path)
	}
}
