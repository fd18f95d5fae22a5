package qemu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluicenet/sluice/hv"
)

// hostRole is argv[0] of a process that starts a guest and waits to be killed: its
// arguments are the disk and the agent.
const hostRole = "sluice:qemu-test-host"

// host is the life of that process.
func host() {
	h := New(Config{Accelerators: []string{tcg}})
	running, err := h.Start(context.Background(), hv.Config{
		Name: "orphan", MemoryMiB: 192, NIC: &hv.NIC{}, Disks: []hv.Disk{{Path: os.Args[1], ReadOnly: true, Format: hv.Ext4}},
	})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	v := running.(*vm)
	fmt.Println(v.cmd.Process.Pid, v.qemuPID())
	select {}
}

// qemuPID returns QEMU's process number.
func (v *vm) qemuPID() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.pid
}

// gone waits until a process is no more, or fails.
func gone(t *testing.T, what string, pid int) {
	t.Helper()
	if pid == 0 {
		t.Errorf("%s has no number", what)
		return
	}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
	}
	t.Errorf("%s, process %d, lives on", what, pid)
	_ = syscall.Kill(pid, syscall.SIGKILL)
}

// Whoever is killed, nothing of the guest stays.
func TestKilled(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		victim func(v *vm) int
	}{
		{"QEMU", (*vm).qemuPID},
		{"supervisor", func(v *vm) int { return v.cmd.Process.Pid }},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			started, _ := boot(t, emulated(t), hv.Config{NIC: &hv.NIC{}, Disks: busybox(t)})
			v := started.(*vm)
			if err := syscall.Kill(row.victim(v), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if exit := wait(t, v); exit != (hv.Exit{Code: -1, Signal: 9}) {
				t.Errorf("Wait = %+v; want signal 9", exit)
			}
			gone(t, "QEMU", v.qemuPID())
			gone(t, "the supervisor", v.cmd.Process.Pid)
			nic, _ := v.NIC()
			if _, err := io.Copy(io.Discard, nic); err != nil && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the card's other end: %v; want its end", err)
			}
			nic.Close()
		})
	}
}

// The guest of a process that is killed ends with it, whatever the guest wants.
func TestHostKilled(t *testing.T) {
	t.Parallel()
	emulated(t) // or skip
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{hostRole, busybox(t)[0].Path}, Env: os.Environ(),
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var supervisor, qemu int
	if _, err := fmt.Sscan(line, &supervisor, &qemu); err != nil {
		t.Fatalf("the host says %q", line)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	gone(t, "the supervisor", supervisor)
	gone(t, "QEMU", qemu)
}

// Close leaves no process, no descriptor and no file.
func TestNothingIsLeft(t *testing.T) { // not parallel: it counts the process's own
	h := emulated(t)
	disks := busybox(t)
	t.Setenv("TMPDIR", t.TempDir()) // this machine's other has files of other tests
	count := func() (descriptors, files int) {
		d, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.ReadDir(os.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		return len(d), len(f)
	}
	descriptors, files := count()
	v, client := boot(t, h, hv.Config{NIC: &hv.NIC{}, Disks: disks})
	pids := []int{v.(*vm).cmd.Process.Pid, v.(*vm).qemuPID()}
	client.Close()
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); err == nil {
			t.Errorf("process %d is there after Close", pid)
		}
	}
	if d, f := count(); d > descriptors || f > files {
		t.Errorf("%d descriptors and %d files; had %d and %d", d, f, descriptors, files)
	}
}

// QEMU has the descriptors that it was given, and none of its starter's.
func TestDescriptors(t *testing.T) {
	t.Parallel()
	secret, err := os.CreateTemp(t.TempDir(), "secret")
	if err != nil {
		t.Fatal(err)
	}
	defer secret.Close()
	// As a careless program has it: inherited by whatever is started.
	inherited, _, errno := syscall.Syscall(syscall.SYS_FCNTL, secret.Fd(), syscall.F_DUPFD, 100)
	if errno != 0 {
		t.Fatal(errno)
	}
	defer syscall.Close(int(inherited))
	v, _ := boot(t, emulated(t), hv.Config{Disks: busybox(t)})
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", v.(*vm).qemuPID()))
	if err != nil {
		t.Fatal(err)
	}
	var numbers []int
	for _, link := range links {
		target, _ := os.Readlink(link)
		if strings.Contains(target, secret.Name()) {
			t.Errorf("QEMU has %s", target)
		}
		n, _ := strconv.Atoi(filepath.Base(link))
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	t.Logf("QEMU has descriptors %v", numbers)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", v.(*vm).qemuPID()))
	if err != nil || !strings.Contains(string(status), "Seccomp:\t2") || !strings.Contains(string(status), "NoNewPrivs:\t1") {
		t.Errorf("QEMU doesn't confine itself: %v\n%s", err, status)
	}
}
