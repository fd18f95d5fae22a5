package sandbox

import (
	"errors"
	"os"
	"sync"
	"time"

	"github.com/sluicenet/sluice/internal/control"
)

// A usage is what the processes below one have used.
//
// readUsage, per platform, reads it of the process with a number: the sandbox's
// own, whose children are the guest's, or the machine that runs it. What has
// ended counts as its parent has waited for it.
type usage struct {
	cpu                 time.Duration
	memory              uint64 // bytes; of pages that are shared, the processes' part
	resident            uint64 // bytes of the process itself
	diskRead, diskWrite uint64 // bytes
}

// A meter remembers what is needed for a rate. Its methods may be called by
// several goroutines.
type meter struct {
	mu   sync.Mutex // guards the following fields
	cpu  time.Duration
	when time.Time
}

// percent returns the share of one processor since the last call, at first since
// began.
func (m *meter) percent(cpu time.Duration, now, began time.Time) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	since := m.when
	if since.IsZero() {
		since = began
	}
	used, passed := cpu-m.cpu, now.Sub(since)
	m.cpu, m.when = cpu, now
	if passed <= 0 || used < 0 {
		return 0
	}
	return 100 * float64(used) / float64(passed)
}

// Metrics implements control.Sandbox.
func (s *Sandbox) Metrics() (control.Metrics, error) {
	if s.leash == nil {
		return control.Metrics{}, &control.Failure{Kind: control.KindMetrics, Message: "the sandbox runs in its creator's process: what is the guest's can't be told from the rest"}
	}
	u, err := readUsage(os.Getpid())
	if errors.Is(err, errors.ErrUnsupported) {
		return control.Metrics{}, &control.Failure{Kind: control.KindMetrics, Message: err.Error()}
	}
	if err != nil {
		return control.Metrics{}, ioFailure(err)
	}
	now := time.Now()
	m := control.Metrics{
		CPUPercent:              s.meter.percent(u.cpu, now, s.activity.start),
		VCPUTimeNs:              uint64(u.cpu),
		MemoryBytes:             u.memory,
		MemoryHostResidentBytes: &u.resident,
		MemoryLimitBytes:        uint64(s.cfg.MemoryMiB) << 20,
		DiskReadBytes:           u.diskRead,
		DiskWriteBytes:          u.diskWrite,
		Uptime:                  now.Sub(s.activity.start),
	}
	if s.network != nil {
		n := s.network.Stats()
		m.NetTxBytes, m.NetRxBytes = n.BytesFromGuest, n.BytesToGuest
	}
	return m, nil
}
