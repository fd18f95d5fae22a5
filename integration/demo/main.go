// Command demo shows the main job of sluice on real input: it serves a file on this
// machine's loopback, lets a sandbox fetch it through host.microsandbox.internal,
// and shows a request that the policy denies, with the rule, and the summary. make
// demo runs it, and make demo-vm in a virtual machine.
//
//	demo [-vm] PATH-OF-SLUICE
//	demo -image FILE
//
// The second form only writes the image that the machine has, for tests.
// It exits with 0 if the sandbox got the file and nothing else.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// file is what the sandbox fetches.
const file = "This file came from the host's loopback, through sluice.\n"

// What the sandbox may not reach: an address and its network, which are reserved for
// documentation, so that nobody has them (RFC 5737).
const (
	elsewhere = "198.51.100.7"
	denied    = "198.51.100.0/24"
)

func main() {
	machine := flag.Bool("vm", false, "in QEMU's machine instead of a namespace, with an image that is made here")
	image := flag.String("image", "", "write the image's archive to `FILE`, and nothing else")
	flag.Parse()
	if *image != "" && flag.NArg() == 0 {
		if err := makeImage(*image); err != nil {
			fmt.Fprintln(os.Stderr, "demo:", err)
			os.Exit(1)
		}
		return
	}
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: demo [-vm] PATH-OF-SLUICE, or demo -image FILE")
		os.Exit(2)
	}
	d := demo{sluice: flag.Arg(0), machine: *machine}
	if err := d.run(context.Background(), os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// A demo is one demonstration.
type demo struct {
	sluice  string // the command
	machine bool   // in a virtual machine
}

// run runs it.
func (d demo) run(ctx context.Context, stdout, stderr io.Writer) error {
	// An emulated machine starts in two seconds, or in thirty on a busy host.
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, file) })}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()

	got, err := d.demonstrate(ctx, l.Addr().(*net.TCPAddr).Port, stderr)
	fmt.Fprint(stdout, got)
	err = errors.Join(err, server.Close())
	if serr := <-served; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, serr)
	}
	if err == nil && got != file {
		err = fmt.Errorf("the sandbox printed %q, want the file", got)
	}
	return err
}

// demonstrate runs the sandbox and returns what its commands printed.
func (d demo) demonstrate(ctx context.Context, port int, stderr io.Writer) (string, error) {
	script := fmt.Sprintf(
		"curl --silent --show-error http://host.microsandbox.internal:%d/file && ! curl --silent --show-error --max-time 5 http://%s/", port, elsewhere)
	argv := []string{
		"run", "--backend", "namespace", "--deny-response", "reject", "--summary",
		"--rule", "allow egress host tcp " + strconv.Itoa(port),
		"--rule", "deny egress " + denied,
		"--", "sh", "-c", script,
	}
	var out strings.Builder
	if !d.machine {
		err := d.sluiceRun(ctx, argv, nil, &out, stderr)
		return out.String(), err
	}
	// The cache of images is the demonstration's own.
	home, err := os.MkdirTemp("", "sluice-demo-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(home)
	env := append(os.Environ(), "SLUICE_HOME="+home)
	if os.Getenv("SLUICE_QEMU_ACCEL") == "" {
		env = append(env, "SLUICE_QEMU_ACCEL=tcg")
	}
	archive := filepath.Join(home, "demo.tar")
	if err := makeImage(archive); err != nil {
		return "", fmt.Errorf("make image: %w", err)
	}
	if err := d.sluiceRun(ctx, []string{"images", "import", "demo", archive}, env, stderr, stderr); err != nil {
		return "", err
	}
	argv[slices.Index(argv, "namespace")] = "qemu"
	argv = slices.Insert(argv, slices.Index(argv, "--"), "demo")
	err = d.sluiceRun(ctx, argv, env, &out, stderr)
	return out.String(), err
}

// sluiceRun runs the command, and shows how.
func (d demo) sluiceRun(ctx context.Context, argv, env []string, stdout, stderr io.Writer) error {
	fmt.Fprintf(stderr, "$ sluice %s\n", quote(argv))
	cmd := exec.CommandContext(ctx, d.sluice, argv...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, stdout, stderr
	return cmd.Run()
}

// quote returns a command line as a shell would take it.
func quote(argv []string) string {
	var b strings.Builder
	for i, arg := range argv {
		if i > 0 {
			b.WriteByte(' ')
		}
		if strings.ContainsAny(arg, " !&|;'\"$") {
			arg = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
		}
		b.WriteString(arg)
	}
	return b.String()
}
