package guest

import (
	"math"

	"golang.org/x/sys/unix"
)

// agentProcesses is how many threads the agent may have when its commands have
// taken all that is theirs: one for each file that is read or written by a blocking
// call, and it has 256 channels.
const agentProcesses = 512

// A processBound is the soft limit on processes that commands are started with. The
// agent has the hard one: commands that raise theirs to it, too, are the guest's own
// loss.
type processBound struct {
	commands, agent unix.Rlimit // zero without a bound
}

// newProcessBound sets the agent's limit. What its starter has set already isn't
// exceeded.
func newProcessBound(processes uint64) (processBound, error) {
	var now unix.Rlimit
	if processes == 0 {
		return processBound{}, nil
	}
	if err := unix.Getrlimit(unix.RLIMIT_NPROC, &now); err != nil {
		return processBound{}, err
	}
	b := processBoundOf(processes, now.Max)
	return b, unix.Setrlimit(unix.RLIMIT_NPROC, &b.agent)
}

// processBoundOf returns the limits for so many processes of commands, where the
// starter has set most. Of a limit that doesn't hold both the agent keeps its share,
// but no more than half: neither must be unable to do anything.
func processBoundOf(processes, most uint64) processBound {
	hard := min(most, min(processes, math.MaxUint64-agentProcesses)+agentProcesses)
	return processBound{
		commands: unix.Rlimit{Cur: min(processes, hard-min(agentProcesses, hard/2)), Max: hard},
		agent:    unix.Rlimit{Cur: hard, Max: hard},
	}
}

// within calls start, which makes a process, with the limit of commands.
func (b processBound) within(start func() error) error {
	if b.agent.Max == 0 {
		return start()
	}
	if err := unix.Setrlimit(unix.RLIMIT_NPROC, &b.commands); err != nil {
		return err
	}
	err := start()
	if restoreErr := unix.Setrlimit(unix.RLIMIT_NPROC, &b.agent); err == nil {
		err = restoreErr
	}
	return err
}
