package integration

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/netlab"
	m "github.com/sluicenet/sluice/sdk"
)

// demoImage returns the path of the demonstration's image: busybox and curl.
var demoImage = sync.OnceValues(func() (string, error) {
	path := filepath.Join(filepath.Dir(demo), "image.tar")
	out, err := exec.Command(demo, "-image", path).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return path, err
})

// startVM starts a sandbox in a virtual machine.
func startVM(t *testing.T, name string, opts ...m.SandboxOption) *m.Sandbox {
	t.Helper()
	needMachine(t)
	image, err := demoImage()
	if err != nil {
		t.Fatal(err)
	}
	sb, err := m.CreateSandbox(t.Context(), name, append(opts, m.WithBackend("qemu"), m.WithImage(image))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sb.Close(); err != nil {
			t.Errorf("close the sandbox: %v", err)
		}
	})
	return sb
}

// output runs a shell's commands in a sandbox and returns what they print.
func output(t *testing.T, sb *m.Sandbox, commands string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := sb.Exec(ctx, "/bin/sh", []string{"-c", commands + " 2>&1"})
	if err != nil {
		t.Fatalf("%s: %v", commands, err)
	}
	return out.Stdout()
}

// TestVM shows that a virtual machine is a sandbox like any other: commands, files,
// names, policy in both families, published ports, connections by its agent.
func TestVM(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hello %s\n", r.Host) })
	good := lab.Host(t, "good.vm.example")
	good.HTTP(80, hello)
	bad := lab.Host(t, "bad.vm.example")
	bad.HTTP(80, hello)
	sb := startVM(t, "vm", m.WithNetwork(&m.NetworkConfig{
		Rules: []m.PolicyRule{
			{Action: "allow", Destination: "good.vm.example", Protocol: "tcp", Port: "80"},
			{Action: "allow", Destination: good.IP6.String(), Protocol: "tcp", Port: "80"},
		},
		DenyResponse: m.DenyResponseReject,
	}))
	if sb.Backend() != "qemu" {
		t.Fatalf("the backend is %q", sb.Backend())
	}
	const get = "curl --silent --show-error --max-time 60 "
	for _, row := range []struct{ name, command, want string }{
		{"a kernel of its own", "cat /proc/1/comm", "sluice:machine"},
		{"a name", get + "http://good.vm.example/", "hello good.vm.example"},
		{"IPv4", get + "-4 http://good.vm.example/", "hello good.vm.example"},
		{"IPv6", get + "-6 http://good.vm.example/", "hello good.vm.example"},
		{"an address that a rule names", get + fmt.Sprintf("http://[%v]/", good.IP6), "hello"},
		{"a name that no rule allows", get + "http://bad.vm.example/", "Could not resolve"},
		{"an address that no rule allows", get + fmt.Sprintf("http://%v/", bad.IP4), "Couldn't connect"},
		{"an address of IPv6 that no rule allows", get + fmt.Sprintf("http://[%v]/", bad.IP6), "Couldn't connect"},
		{"the host's loopback", get + "http://host.microsandbox.internal:22/", "Couldn't connect"},
	} {
		if got := output(t, sb, row.command); !strings.Contains(got, row.want) {
			t.Errorf("%s: %s printed %q; want %q", row.name, row.command, got, row.want)
		}
	}
	fs := sb.FS()
	if err := fs.Write(t.Context(), "/tmp/file", []byte("from the host")); err != nil {
		t.Error(err)
	}
	if got := output(t, sb, "cat /tmp/file; echo from the guest >/tmp/file"); got != "from the host" {
		t.Errorf("the guest reads %q", got)
	}
	if got, err := fs.Read(t.Context(), "/tmp/file"); err != nil || string(got) != "from the guest\n" {
		t.Errorf("the host reads %q, %v", got, err)
	}

	// A server in the machine, by a published port and by the agent.
	output(t, sb, "mkdir -p /srv && echo served >/srv/index.html && httpd -p 8080 -h /srv")
	binding, err := sb.Ports().Add(t.Context(), m.PortBinding{GuestPort: 8080})
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", binding.HostPort))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err != nil || string(body) != "served\n" {
		t.Errorf("the published port serves %q, %v", body, err)
	}
	conn, err := sb.Dial(t.Context(), "tcp", "127.0.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET /index.html HTTP/1.0\r\n\r\n")
	if text, _ := io.ReadAll(conn); !strings.Contains(string(text), "served") {
		t.Errorf("the agent's connection has %q", text)
	}
}

// TestVMEnds shows that nothing of a virtual machine outlives the process of its
// sandbox, however that ends.
func TestVMEnds(t *testing.T) {
	t.Parallel()
	netlab.New(t)
	startVM(t, "vm-ends", m.WithNetwork(m.NetworkPolicy.None()))
	all, err := netlab.Processes()
	if err != nil {
		t.Fatal(err)
	}
	var mine, parents []int // QEMU and its supervisor, told from other tests' by the name
	for _, p := range all {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID))
		if err == nil && strings.Contains(string(line), "guest=vm-ends") {
			mine, parents = append(mine, p.PID), append(parents, p.Parent)
		}
	}
	// The sandbox's process is the parent that is neither.
	parents = slices.DeleteFunc(parents, func(pid int) bool { return slices.Contains(mine, pid) })
	if len(mine) != 2 || len(parents) != 1 {
		t.Fatalf("processes %v are the machine's, below %v; want two below one", mine, parents)
	}
	sandbox := parents[0]
	if err := syscall.Kill(sandbox, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, pid := range mine {
		eventually(t, fmt.Sprintf("process %d has ended", pid), func() bool {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			return err != nil || strings.Contains(string(stat), ") Z ")
		})
	}
}
