package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// maxProcesses bounds the processes that readUsage looks at: what a guest can
// make must not keep us busy.
const maxProcesses = 4096

// userHz is the unit of times in /proc/PID/stat: 100 on every architecture that
// Go runs on.
const userHz = 100

// readUsage reads /proc. See metrics.go.
func readUsage(pid int) (usage, error) {
	var u usage
	var err error
	if u.resident, err = residentBytes(pid); err != nil {
		return u, err
	}
	todo, err := children(pid)
	if err != nil {
		return u, err
	}
	for seen := 0; len(todo) > 0 && seen < maxProcesses; seen++ {
		p := todo[0]
		todo = todo[1:]
		below, err := children(p)
		if err != nil {
			continue // it has ended meanwhile
		}
		todo = append(todo, below...)
		u.add(p)
	}
	return u, nil
}

// add adds what a process has used. What can't be read is gone, or isn't ours to
// see.
func (u *usage) add(pid int) {
	if text, err := os.ReadFile(procPath(pid, "stat")); err == nil {
		u.cpu += cpuTime(text)
	}
	if text, err := os.ReadFile(procPath(pid, "smaps_rollup")); err == nil {
		u.memory += field(text, "Pss:") << 10
	} else if rss, err := residentBytes(pid); err == nil {
		u.memory += rss
	}
	if text, err := os.ReadFile(procPath(pid, "io")); err == nil {
		u.diskRead += field(text, "read_bytes:")
		u.diskWrite += field(text, "write_bytes:")
	}
}

func procPath(pid int, name string) string { return fmt.Sprintf("/proc/%d/%s", pid, name) }

// cpuTime returns the time of a process and of those that it has waited for, from
// /proc/PID/stat: fields 14 to 17, counted behind the name, which may hold
// anything.
func cpuTime(stat []byte) time.Duration {
	i := bytes.LastIndexByte(stat, ')')
	if i < 0 {
		return 0
	}
	fields := strings.Fields(string(stat[i+1:])) // from field 3 on
	var ticks uint64
	for n := 14; n <= 17 && n-3 < len(fields); n++ {
		v, err := strconv.ParseUint(fields[n-3], 10, 64)
		if err == nil {
			ticks += v
		}
	}
	return time.Duration(ticks) * time.Second / userHz
}

// field returns the number behind a name at the beginning of a line, 0 if there
// is none.
func field(text []byte, name string) uint64 {
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, []byte(name)); ok {
			words := strings.Fields(string(rest))
			if len(words) == 0 {
				return 0
			}
			v, err := strconv.ParseUint(words[0], 10, 64)
			if err != nil {
				return 0
			}
			return v
		}
	}
	return 0
}

// residentBytes returns the memory that a process has on the host.
func residentBytes(pid int) (uint64, error) {
	text, err := os.ReadFile(procPath(pid, "statm"))
	if err != nil {
		return 0, err
	}
	words := strings.Fields(string(text))
	if len(words) < 2 {
		return 0, fmt.Errorf("read statm of process %d: %q", pid, text)
	}
	pages, err := strconv.ParseUint(words[1], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read statm of process %d: %w", pid, err)
	}
	return pages * uint64(os.Getpagesize()), nil
}

// children returns the children of a process, those of all of its threads.
func children(pid int) ([]int, error) {
	tasks, err := os.ReadDir(procPath(pid, "task"))
	if err != nil {
		return nil, err
	}
	var all []int
	for _, t := range tasks {
		text, err := os.ReadFile(procPath(pid, "task/"+t.Name()+"/children"))
		if errors.Is(err, os.ErrNotExist) {
			continue // the thread has ended, or the kernel doesn't say
		}
		if err != nil {
			return nil, err
		}
		for word := range strings.FieldsSeq(string(text)) {
			if n, err := strconv.Atoi(word); err == nil {
				all = append(all, n)
			}
		}
	}
	return all, nil
}
