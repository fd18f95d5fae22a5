// Command demo shows the main job of sluice on real input: it serves a file on this
// machine's loopback, lets a sandbox fetch it through host.microsandbox.internal,
// and shows a request that the policy denies, with the rule, and the summary. make
// demo runs it.
//
//	demo PATH-OF-SLUICE
//
// It exits with 0 if the sandbox got the file and nothing else.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
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
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: demo PATH-OF-SLUICE")
		os.Exit(2)
	}
	if err := run(context.Background(), os.Args[1], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// run runs the demonstration with the given command.
func run(ctx context.Context, sluice string, stdout, stderr io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, file) })}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()

	got, err := demonstrate(ctx, sluice, l.Addr().(*net.TCPAddr).Port, stderr)
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
func demonstrate(ctx context.Context, sluice string, port int, stderr io.Writer) (string, error) {
	script := fmt.Sprintf(
		"curl --silent --show-error http://host.microsandbox.internal:%d/file && ! curl --silent --show-error --max-time 5 http://%s/", port, elsewhere)
	argv := []string{
		"run", "--backend", "namespace", "--deny-response", "reject", "--summary",
		"--rule", "allow egress host tcp " + strconv.Itoa(port),
		"--rule", "deny egress " + denied,
		"--", "sh", "-c", script,
	}
	fmt.Fprintf(stderr, "$ sluice %s\n", quote(argv))
	cmd := exec.CommandContext(ctx, sluice, argv...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, stderr
	err := cmd.Run()
	return out.String(), err
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
