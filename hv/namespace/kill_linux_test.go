package namespace

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/internal/guest"
)

// hostRole is argv[0] of a process that starts a guest named by argv[1] and
// prints the pid of its process 1.
const hostRole = "namespace-test:host"

// hostMain is that process.
func hostMain() {
	ctx := context.Background()
	v, err := New().Start(ctx, hv.Config{Name: os.Args[1], NIC: &hv.NIC{}})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	fmt.Println("pid", v.(*vm).cmd.Process.Pid)
	client := guest.NewClient(v.Agent())
	if err := client.Boot(ctx, guest.Bootstrap{Hostname: "box"}); err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	// Processes that hold on: of another session, and deaf to signals.
	line := "setsid sh -c 'trap \"\" HUP INT TERM; sleep 600; : '$0 & (sleep 600 &) ; sleep 600"
	_, _ = inherit(ctx, client, "sh", "-c", line, os.Args[1])
	os.Exit(1) // the guest was killed
}

// A left is what may be left behind by a guest: processes and namespaces.
type left struct {
	name       string          // of the guest; its processes have it in their arguments
	namespaces map[string]bool // of its process 1: "net:[4026532177]"
}

// look remembers the namespaces of process 1.
func (l *left) look(pid int) {
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/ns/*", pid))
	for _, link := range links {
		own, _ := os.Readlink("/proc/self/ns/" + filepath.Base(link))
		// The time namespace is the host's; one that can't be read has gone.
		if target, err := os.Readlink(link); err == nil && target != own {
			l.namespaces[target] = true
		}
	}
}

// find returns what is there.
func (l *left) find() []string {
	var found []string
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range processes {
		cmdline, _ := os.ReadFile(dir + "/cmdline")
		if bytes.Contains(cmdline, []byte(l.name)) && !isZombie(dir) {
			found = append(found, fmt.Sprintf("%s: %q", dir, cmdline))
		}
		links, _ := filepath.Glob(dir + "/ns/*")
		for _, link := range links {
			if target, err := os.Readlink(link); err == nil && l.namespaces[target] && !isZombie(dir) {
				found = append(found, link+": "+target)
			}
		}
	}
	return found
}

// isZombie reports whether the process has ended and only waits for its
// parent's look.
func isZombie(dir string) bool {
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return true
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(after, "Z") || strings.HasPrefix(after, "X")
}

// gone fails unless nothing is left, soon.
func (l *left) gone(t *testing.T, when string) {
	t.Helper()
	var found []string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if found = l.find(); len(found) == 0 {
			return
		}
	}
	t.Fatalf("%s: left behind:\n%s", when, strings.Join(found, "\n"))
}

func TestKillLeavesNothing(t *testing.T) {
	t.Parallel()
	rounds := 50
	if testing.Short() {
		rounds = 10
	}
	executable, err := New().sealedExecutable()
	if err != nil {
		t.Fatal(err)
	}
	for i := range rounds {
		l := &left{name: fmt.Sprintf("kill-test-%d-%d-%d", os.Getpid(), i, rand.Uint32()), namespaces: map[string]bool{}}
		host := exec.Command(fmt.Sprintf("/proc/self/fd/%d", executable.Fd()))
		host.Args = []string{hostRole, l.name}
		stdout, err := host.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := host.Start(); err != nil {
			t.Fatal(err)
		}
		guestFirst := i%2 == 1
		moment := time.Duration(rand.Int64N(int64(60 * time.Millisecond)))
		lines := make(chan string, 4)
		go func() {
			defer close(lines)
			for s := bufio.NewScanner(stdout); s.Scan(); {
				lines <- s.Text()
			}
		}()
		when := fmt.Sprintf("round %d: host killed after %v", i, moment)
		if guestFirst {
			when = fmt.Sprintf("round %d: process 1 killed %v after its start", i, moment)
			pid, err := strconv.Atoi(strings.TrimPrefix(<-lines, "pid "))
			if err != nil {
				t.Fatal(err)
			}
			l.look(pid)
			time.Sleep(moment)
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
		} else {
			select {
			case line := <-lines:
				if pid, err := strconv.Atoi(strings.TrimPrefix(line, "pid ")); err == nil {
					l.look(pid)
				}
				time.Sleep(moment)
			case <-time.After(moment): // in the middle of the start
			}
			if err := host.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		_ = host.Wait() // it was killed, or lost its guest
		for line := range lines {
			if strings.HasPrefix(line, "error") && !guestFirst {
				t.Errorf("%s: %s", when, line)
			}
		}
		l.gone(t, when)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, ours := range []string{" - tmpfs sluice ", " - tmpfs scratch ", " - overlay host ", " - overlay root "} {
		if bytes.Contains(mounts, []byte(ours)) {
			t.Errorf("the host has a mount of a guest's:\n%s", mounts)
		}
	}
}
