package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/netlab"
)

// A peer is a way to give a program a network.
type peer struct {
	name    string
	version []string // prints it on the first line
	foreign bool     // not ours
	// host is how the guest calls the machine's loopback.
	host string
	// start starts a guest with a shell.
	start func(ctx context.Context, mtu int) (*guest, error)
}

// A guest is a running peer with its shell.
type guest struct {
	*netlab.Shell
	peer peer
	// helper is a process of the peer's beside the shell's; nil if there is none.
	helper *exec.Cmd
}

// commandPatience bounds every command: a peer that loses a connection must not stop
// the others' measurement. Measurements are shorter by far.
const commandPatience = 30 * time.Second

// run runs a program in the guest and returns what it wrote.
func (g *guest) run(line string) (string, error) {
	out, code, err := g.Run(fmt.Sprintf("timeout %.0f %s", commandPatience.Seconds(), line))
	if err == nil && code != 0 {
		err = fmt.Errorf("%s: exit code %d %s", line, code, out)
	}
	return out, err
}

// close ends the guest and waits for its processes.
func (g *guest) close() error {
	err := g.Shell.Close()
	if g.helper != nil {
		g.helper.Process.Kill() // it may have ended with its namespace
		if werr := g.helper.Wait(); !errors.As(werr, new(*exec.ExitError)) {
			err = errors.Join(err, werr)
		}
	}
	return err
}

// pids returns the processes that the peer consists of, shell included.
func (g *guest) pids() []int {
	pids := []int{g.PID()}
	if g.helper != nil {
		pids = append(pids, g.helper.Process.Pid)
	}
	return pids
}

// peers returns all, in the order of the table. sluice is the path of the command.
func peers(t *testing.T, sluice string) []peer {
	t.Helper()
	return []peer{
		{
			name: "loopback", host: "127.0.0.1", version: []string{"uname", "-sr"},
			start: func(ctx context.Context, _ int) (*guest, error) { return oneCommand(ctx, "sh") },
		},
		{
			name: "sluice", host: "host.microsandbox.internal", version: []string{sluice, "version"},
			start: func(ctx context.Context, mtu int) (*guest, error) {
				policy, err := policyFile(t, mtu)
				if err != nil {
					return nil, err
				}
				return oneCommand(ctx, sluice, "run", "--quiet", "--backend", "namespace", "--policy", policy, "--", "sh")
			},
		},
		{
			name: "slirp4netns", foreign: true, host: "10.0.2.2", version: []string{"slirp4netns", "--version"},
			start: func(ctx context.Context, mtu int) (*guest, error) { return startSlirp(ctx, mtu) },
		},
		{
			name: "pasta", foreign: true, host: netlabGateway, version: []string{"dpkg-query", "-W", "-f", "passt ${Version}\\n", "passt"},
			start: func(ctx context.Context, mtu int) (*guest, error) {
				// Run by root, its other choice is nobody, who may not enter the namespace.
				return oneCommand(ctx, "pasta", "--quiet", "--runas", "0", "--config-net", "--mtu", strconv.Itoa(mtu), "--", "sh")
			},
		},
	}
}

// netlabGateway is the default gateway of the lab, which pasta maps to the host's
// loopback.
const netlabGateway = "192.168.50.1"

// policyFile writes a policy for sluice that allows everything.
func policyFile(t *testing.T, mtu int) (string, error) {
	file := filepath.Join(t.TempDir(), "policy.yaml")
	text := fmt.Sprintf("version: 1\npolicy: allow-all\nmtu: %d\n", mtu)
	return file, os.WriteFile(file, []byte(text), 0o644)
}

// oneCommand starts a guest whose peer runs the shell itself.
func oneCommand(ctx context.Context, argv ...string) (*guest, error) {
	s, err := netlab.StartShell(ctx, argv...)
	if err != nil {
		return nil, err
	}
	return &guest{Shell: s}, nil
}

// startSlirp starts slirp4netns beside a shell in a namespace of its own.
func startSlirp(ctx context.Context, mtu int, more ...string) (*guest, error) {
	s, err := netlab.StartShell(ctx, "unshare", "--net", "sh")
	if err != nil {
		return nil, err
	}
	ready, theirs, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	defer ready.Close()
	args := append([]string{"--configure", "--ready-fd=3", "--mtu", strconv.Itoa(mtu)}, more...)
	cmd := exec.CommandContext(ctx, "slirp4netns", append(args, strconv.Itoa(s.PID()), "tap0")...)
	cmd.ExtraFiles = []*os.File{theirs}
	if err := errors.Join(cmd.Start(), theirs.Close()); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	g := &guest{Shell: s, helper: cmd}
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		return nil, errors.Join(fmt.Errorf("slirp4netns isn't ready: %w", err), g.close())
	}
	return g, nil
}

// versions returns each peer's version, one a line.
func versions(t *testing.T, peers []peer) string {
	t.Helper()
	var b strings.Builder
	for _, p := range peers {
		out, err := exec.Command(p.version[0], p.version[1:]...).Output()
		if err != nil {
			t.Fatalf("version of %s: %v", p.name, err)
		}
		line, _, _ := strings.Cut(string(out), "\n")
		fmt.Fprintf(&b, "%-12s %s\n", p.name, line)
	}
	return b.String()
}
