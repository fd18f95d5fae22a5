//go:build cgo

package krun

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/hv"
)

// sealRole is a process that seals itself, and tries.
const sealRole = "krun-sealed"

// sealMain prints what a sealed process may, on a thread that was there before.
func sealMain() {
	attempts := []struct {
		name string
		try  func() error
	}{
		{"internet", func() error { _, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); return err }},
		{"internet 6", func() error { _, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM, 0); return err }},
		{"unix", func() error { _, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0); return err }},
		{"program", func() error { return unix.Exec("/bin/true", []string{"true"}, nil) }},
		{"rings", func() error { _, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, 0, 0); return errno }},
		{"file", func() error { return unix.Access("/", unix.R_OK) }},
		{"pair", func() error { _, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0); return err }},
	}
	begin, done := make(chan struct{}), make(chan struct{})
	ready := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		close(ready)
		<-begin
		for _, a := range attempts {
			err := a.try()
			fmt.Printf("%s: %t\n", a.name, errors.Is(err, unix.EPERM))
		}
		close(done)
	}()
	<-ready
	if err := errors.Join(prepare(), seal()); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	close(begin)
	<-done
	os.Exit(0)
}

// A sealed process makes no connections and runs no programs, whichever thread tries.
func TestSeal(t *testing.T) {
	t.Parallel()
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: []string{sealRole}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want := "internet: true\ninternet 6: true\nunix: true\nprogram: true\nrings: true\nfile: false\npair: false\n"
	if string(out) != want {
		t.Errorf("what is refused:\n%s\nwant\n%s", out, want)
	}
}

// TSI takes a socket of the machine's process. By console ports that can't have one
// from the start; by vsock, of which older libraries carry it whatever is switched
// off, from before the agent is anybody's.
func TestStubIsSealed(t *testing.T) {
	t.Parallel()
	for name, missing := range map[string][]string{
		"ports":         nil,
		"vsock":         {"krun_add_console_port_inout"},
		"vsock of 1.16": {"krun_add_console_port_inout", "krun_add_vsock", "krun_disable_implicit_vsock"},
	} {
		s := buildStub(t, missing)
		v := start(t, s.hypervisor(t), hv.Config{Root: testRoot(t), NIC: &hv.NIC{}})
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", v.(*vm).cmd.Process.Pid))
		if err != nil || !strings.Contains(string(status), "Seccomp:\t2") {
			t.Errorf("%s: no filter, %v\n%s", name, err, status)
		}
		agent := v.Agent()
		agent.Close() // ends the guest, and only then the library's process
		waitFor(t, v)
		s.checkContract(t)
	}
}
