package netlab

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// orphanPatience is how long processes may take to end after the tests: as long as
// goroutines.
const orphanPatience = leakPatience

// reapUntil waits for children, adopted ones too, until pid has ended.
func reapUntil(pid int) (unix.WaitStatus, error) {
	for {
		var status unix.WaitStatus
		got, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, err
		case got == pid:
			return status, nil
		}
	}
}

// killOrphans waits until no child is left, kills those that don't end in time, and
// theirs as they are adopted, and returns the names of those it killed.
func killOrphans(patience time.Duration) (killed []string) {
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		for {
			if pid, _ := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid <= 0 {
				break
			}
		}
		children := childrenOf(os.Getpid())
		if len(children) == 0 {
			return killed
		}
		if time.Now().Before(deadline) {
			continue
		}
		for _, c := range children {
			killed = append(killed, c.Name)
			unix.Kill(c.PID, unix.SIGKILL) // an error means that it has ended
		}
	}
}

// childrenOf returns a process's children that run.
func childrenOf(parent int) []Process {
	var children []Process
	all, _ := Processes() // an error is a line of /proc that we can't read: not a child
	for _, p := range all {
		if p.Parent == parent && p.State != 'Z' {
			children = append(children, p)
		}
	}
	return children
}
