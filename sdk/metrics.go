package sdk

import (
	"context"
	"time"

	"github.com/sluicenet/sluice/internal/control"
	"github.com/sluicenet/sluice/internal/sandbox"
)

// Metrics is what a sandbox uses. What can't be told on its host is nil.
type Metrics struct {
	CPUPercent              float64 // of one processor, since it was measured last; at first since the start
	VCPUTimeNs              uint64  // the guest's processor time, in nanoseconds
	MemoryBytes             uint64  // the guest's memory in use
	MemoryAvailableBytes    *uint64 // what the guest could still have
	MemoryHostResidentBytes *uint64 // what the sandbox's process holds of the host's
	MemoryLimitBytes        uint64  // 0 means no limit
	DiskReadBytes           uint64
	DiskWriteBytes          uint64
	NetRxBytes              uint64 // to the guest, of Ethernet frames
	NetTxBytes              uint64 // from the guest
	Uptime                  time.Duration
}

// metricsOf returns metrics in the words of this package.
func metricsOf(m control.Metrics) *Metrics {
	out := Metrics(m)
	return &out
}

// Metrics returns what the sandbox uses.
func (s *Sandbox) Metrics(ctx context.Context) (*Metrics, error) {
	m, err := ask(ctx, s, "measure", s.client.Metrics)
	if err != nil {
		return nil, err
	}
	return metricsOf(m), nil
}

// A MetricsStreamHandle measures a sandbox again and again. It is for one
// goroutine.
type MetricsStreamHandle struct {
	s      *Sandbox
	ticker *time.Ticker
	begun  bool
	closed bool
}

// MetricsStream measures the sandbox once per interval, which is at least 10 ms.
// ctx governs nothing but the call. The caller must Close the stream.
func (s *Sandbox) MetricsStream(ctx context.Context, interval time.Duration) (*MetricsStreamHandle, error) {
	if interval < minInterval {
		return nil, s.failure("measure", &Error{Kind: ErrInvalidArgument, Message: "interval: \"" + interval.String() + "\": too short", Hint: "write at least " + minInterval.String()})
	}
	if err := s.usable("measure"); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, s.failure("measure", control.Cause(ctx))
	}
	return &MetricsStreamHandle{s: s, ticker: time.NewTicker(interval)}, nil
}

// minInterval is how often measuring makes sense: the kernel counts processor
// time in ticks of 4 or 10 ms.
const minInterval = 10 * time.Millisecond

// Recv returns the next measurement, the first at once; nil behind the sandbox's
// end.
func (h *MetricsStreamHandle) Recv(ctx context.Context) (*Metrics, error) {
	if h.closed {
		return nil, h.s.failure("measure", errStreamClosed())
	}
	if h.begun {
		select {
		case <-h.ticker.C:
		case <-h.s.stopped:
			return nil, nil
		case <-ctx.Done():
			return nil, h.s.failure("measure", control.Cause(ctx))
		}
	}
	h.begun = true
	m, err := h.s.Metrics(ctx)
	if IsKind(err, ErrSandboxNotRunning) {
		return nil, nil
	}
	return m, err
}

// Close ends the stream. It is idempotent.
func (h *MetricsStreamHandle) Close() error {
	h.ticker.Stop()
	h.closed = true
	return nil
}

// AllSandboxMetrics returns what each sandbox of this user uses, by name: of those
// that run, and can be measured, as one inside its creator's process can't.
func AllSandboxMetrics(ctx context.Context) (map[string]*Metrics, error) {
	const op = "measure sandboxes"
	dirs, err := userDirs()
	if err != nil {
		return nil, withOp(op, err)
	}
	all, err := sandbox.List(dirs)
	if err != nil {
		return nil, withOp(op, err)
	}
	metrics := make(map[string]*Metrics)
	for _, found := range all {
		if !found.Running() {
			continue
		}
		h := &SandboxHandle{dirs, found}
		m, err := h.Metrics(ctx)
		switch {
		case err == nil:
			metrics[found.Name] = m
		case ctx.Err() != nil:
			return nil, withOp(op, control.Cause(ctx))
		}
	}
	return metrics, nil
}
