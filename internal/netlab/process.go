package netlab

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// A Process is what Linux's /proc says of one.
type Process struct {
	PID, Parent int
	Name        string        // of the program, cut to 15 bytes
	State       byte          // R, S, D, Z, …; see proc(5)
	CPU         time.Duration // its own, children not included; in steps of 10 ms
}

// Processes returns all of this machine's processes. There are none where there is
// no /proc.
func Processes() ([]Process, error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	var all []Process
	for _, f := range files {
		stat, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		p, err := parseStat(string(stat))
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", f, err)
		}
		all = append(all, p)
	}
	return all, nil
}

// clockTick is the unit of /proc's CPU times: USER_HZ is 100 on every Linux.
const clockTick = 10 * time.Millisecond

// parseStat reads a line of /proc/PID/stat. The name is in parentheses and may hold
// any byte, parentheses too.
func parseStat(stat string) (Process, error) {
	opens, closes := strings.IndexByte(stat, '('), strings.LastIndexByte(stat, ')')
	if opens < 1 || closes < opens {
		return Process{}, fmt.Errorf("no name in %q", stat)
	}
	fields := strings.Fields(stat[closes+1:])
	if len(fields) < 13 {
		return Process{}, fmt.Errorf("too short: %q", stat)
	}
	var numbers [4]int
	for i, s := range []string{strings.TrimSpace(stat[:opens]), fields[1], fields[11], fields[12]} {
		n, err := strconv.Atoi(s)
		if err != nil {
			return Process{}, err
		}
		numbers[i] = n
	}
	return Process{
		PID: numbers[0], Parent: numbers[1], Name: stat[opens+1 : closes], State: fields[0][0],
		CPU: time.Duration(numbers[2]+numbers[3]) * clockTick,
	}, nil
}
