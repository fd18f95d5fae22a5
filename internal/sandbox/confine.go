package sandbox

import (
	"github.com/sluicenet/sluice/internal/confine"
)

// confine takes from this process what it doesn't need while its guest runs. It
// goes on writing its own directory, the claims to addresses and its socket. Its
// directory is in one with others', where it may remove what is empty: its own, in
// the end.
func (s *Sandbox) confine() error {
	report, err := confine.Process(confine.Rules{
		ReadWrite:   []string{s.claim.dir, s.dirs.blocks(), s.dirs.Runtime},
		RemoveEmpty: []string{s.dirs.sandboxes()},
		ReadOnly:    append(confine.System(), s.dirs.Images()),
		MemoryBytes: maxMemory,
	})
	if err != nil {
		return ioFailure(err)
	}
	for _, lack := range report.Lacks() {
		s.log.Info("the sandbox's process is less confined than it could be", "lacks", lack)
	}
	return nil
}
