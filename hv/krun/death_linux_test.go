//go:build cgo

package krun

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/internal/guest/machine"
)

// Nothing of a guest outlives it: neither its processes nor its directory.
func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	s := buildStub(t, nil)
	v := start(t, s.hypervisor(t), hv.Config{Root: testRoot(t)}).(*vm)
	dir, pid := v.dir, v.cmd.Process.Pid
	if _, err := os.Stat(dir + "/boot/sluice:machine"); err != nil {
		t.Error(err)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", dir, err)
	}
	if err := syscall.Kill(pid, 0); err != syscall.ESRCH {
		t.Errorf("process %d is left: %v", pid, err)
	}
}

// How a guest ended is its process 1's word; a machine that ends without one, as after
// a kernel's panic, is never a success.
func TestExitOf(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		line string // of a shell, which stands for libkrun's process
		told machine.Status
		want hv.Exit
	}{
		{"exit 0", machine.Status{Exited: true}, hv.Exit{}},
		{"exit 0", machine.Status{Exited: true, Exit: 3}, hv.Exit{Code: 3}},
		{"kill -9 $$", machine.Status{Exited: true}, hv.Exit{}},
		{"exit 0", machine.Status{Ready: true}, hv.Exit{Code: refused}},
		{"exit 127", machine.Status{}, hv.Exit{Code: 127}},
		{"kill -9 $$", machine.Status{Ready: true}, hv.Exit{Code: -1, Signal: 9}},
	} {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", row.line)
		_ = cmd.Run() // how it ended is in ProcessState
		if got := exitOf(cmd.ProcessState, row.told); got != row.want {
			t.Errorf("%s after %+v: %+v, want %+v", row.line, row.told, got, row.want)
		}
	}
}

// A machine's process that crashes is the guest's end: its caller hears of the signal,
// from Wait and from the agent's stream, and nothing is left.
func TestMachineCrashes(t *testing.T) {
	t.Parallel()
	s := buildStub(t, nil)
	v := start(t, s.hypervisor(t), hv.Config{Root: testRoot(t), NIC: &hv.NIC{}}).(*vm)
	agent := v.Agent()
	defer agent.Close()
	if err := syscall.Kill(v.cmd.Process.Pid, syscall.SIGABRT); err != nil { // as Rust's panics do
		t.Fatal(err)
	}
	if exit := waitFor(t, v); exit != (hv.Exit{Code: -1, Signal: int(syscall.SIGABRT)}) && exit.Code != 2 {
		t.Errorf("%+v; want the signal, or what Go's runtime makes of it", exit)
	}
	if _, err := io.Copy(io.Discard, agent); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the agent's stream: %v; want its end", err)
	}
	if _, err := os.Stat(v.dir); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", v.dir, err)
	}
}

// The process has none of the host's descriptors and none of its environment.
func TestProcessInheritsNothing(t *testing.T) {
	t.Setenv("SECRET_OF_THE_HOST", "x")
	// Without close-on-exec, as a caller's C library may open files.
	leaked, err := syscall.Open(os.DevNull, syscall.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(leaked)
	s := buildStub(t, nil)
	v := start(t, s.hypervisor(t), hv.Config{Root: testRoot(t)}).(*vm)
	proc := "/proc/" + strconv.Itoa(v.cmd.Process.Pid)
	env, err := os.ReadFile(proc + "/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range strings.Split(strings.Trim(string(env), "\x00"), "\x00") {
		if name, _, _ := strings.Cut(e, "="); name != "HOSTNAME" && name != "LD_LIBRARY_PATH" {
			t.Errorf("its environment has %q", e)
		}
	}
	entries, err := os.ReadDir(proc + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if to, _ := os.Readlink(proc + "/fd/" + e.Name()); to == os.DevNull && e.Name() != "0" {
			t.Errorf("descriptor %s is the host's %s", e.Name(), to)
		}
	}
	args, err := os.ReadFile(proc + "/cmdline")
	if err != nil || string(args) != Role+"\x00test\x00" {
		t.Errorf("its arguments are %q, %v", args, err)
	}
}

// hostRole is a process that starts a guest and is then killed.
const hostRole = "krun-host"

// hostMain starts a guest with the library of its first argument and the root of
// its second, prints its process and directory, and waits to be killed.
func hostMain() {
	h := &Hypervisor{libraries: os.Args[1:2], kvm: os.DevNull, agent: ownAgent}
	v, err := h.start(context.Background(), hv.Config{Name: "orphan", Root: os.Args[2]})
	if err != nil {
		println(err.Error())
		os.Exit(1)
	}
	os.Stdout.WriteString(strconv.Itoa(v.cmd.Process.Pid) + " " + v.dir + "\n")
	select {}
}

// A guest ends with its host, however that dies, and its directory with it.
func TestHostIsKilled(t *testing.T) {
	t.Parallel()
	s := buildStub(t, nil)
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: []string{hostRole, s.path, testRoot(t)}, Stderr: os.Stderr}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, err := out.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	pidText, dir, _ := strings.Cut(strings.TrimSpace(string(buf[:n])), " ")
	pid, err := strconv.Atoi(pidText)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	for deadline := time.Now().Add(time.Minute); syscall.Kill(pid, 0) == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d outlives its host", pid)
		}
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s outlives the host: %v", dir, err)
	}
}
