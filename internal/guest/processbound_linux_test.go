package guest

import (
	"errors"
	"math"
	"testing"

	"golang.org/x/sys/unix"
)

func TestProcessBoundOf(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name            string
		processes, most uint64
		commands, agent uint64
	}{
		{"a starter without a limit", 4096, unix.RLIM_INFINITY, 4096, 4608},
		{"a starter with room for both", 4096, 4608, 4096, 4608},
		{"a starter with less than both", 4096, 4096, 3584, 4096},
		{"a starter with less than the agent's twice", 4096, 600, 300, 600},
		{"a starter with one", 4096, 1, 1, 1},
		{"few", 10, unix.RLIM_INFINITY, 10, 522},
		{"more than there are numbers", math.MaxUint64, unix.RLIM_INFINITY, math.MaxUint64 - agentProcesses, unix.RLIM_INFINITY},
		{"more than there are numbers, with a limit", math.MaxUint64 - 1, 4096, 3584, 4096},
	} {
		b := processBoundOf(row.processes, row.most)
		if b.commands.Cur != row.commands || b.agent.Cur != row.agent || b.commands.Max != row.agent || b.agent.Max != row.agent {
			t.Errorf("%s: %+v; want %d for commands of %d", row.name, b, row.commands, row.agent)
		}
	}
}

// Commands start within their limit, and the agent has its own again whatever becomes
// of the start.
func TestWithin(t *testing.T) {
	var now unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NPROC, &now); err != nil {
		t.Fatal(err)
	}
	// The test's own limit stays what it is; only the soft one of commands is lower.
	b := processBound{commands: unix.Rlimit{Cur: now.Cur - 1, Max: now.Max}, agent: now}
	failure := errors.New("no")
	for _, want := range []error{nil, failure} {
		var during unix.Rlimit
		err := b.within(func() error { return errors.Join(unix.Getrlimit(unix.RLIMIT_NPROC, &during), want) })
		if !errors.Is(err, want) || during != b.commands {
			t.Errorf("within = %v with %+v; want %v with %+v", err, during, want, b.commands)
		}
		var after unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NPROC, &after); err != nil || after != now {
			t.Errorf("after it the limit is %+v, %v; want %+v", after, err, now)
		}
	}
	if err := (processBound{}).within(func() error { return failure }); !errors.Is(err, failure) {
		t.Errorf("without a bound: %v; want what the start returns", err)
	}
}
