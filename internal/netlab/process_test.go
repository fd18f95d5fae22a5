package netlab

import (
	"os"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	t.Parallel()
	tail := " S 7 10 10 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 1 0 12345"
	for _, row := range []struct {
		stat string
		want Process
		ok   bool
	}{
		{"42 (iperf3)" + tail, Process{42, 7, "iperf3", 'S', 3 * time.Second}, true},
		{"42 (a) S (b))" + tail, Process{42, 7, "a) S (b)", 'S', 3 * time.Second}, true},
		{"42 ()" + tail, Process{42, 7, "", 'S', 3 * time.Second}, true},
		{"42 (short) S 7", Process{}, false},
		{"42 S 7 10", Process{}, false},
		{"(x)" + tail, Process{}, false},
		{"42 (x) S seven 10 10 0 -1 4194304 100 0 0 0 250 50 0", Process{}, false},
		{"", Process{}, false},
	} {
		got, err := parseStat(row.stat)
		if got != row.want || (err == nil) != row.ok {
			t.Errorf("%q: %+v, %v, want %+v, success %t", row.stat, got, err, row.want, row.ok)
		}
	}
}

func TestProcessesFindsSelf(t *testing.T) {
	t.Parallel()
	all, err := Processes()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if p.PID == os.Getpid() {
			if p.Parent != os.Getppid() || p.State == 'Z' {
				t.Errorf("%+v, want parent %d", p, os.Getppid())
			}
			return
		}
	}
	t.Errorf("not among %d processes", len(all))
}
