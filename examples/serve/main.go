// Command serve runs a server in a sandbox: programs of this machine reach it, and it
// reaches nothing. It says where once the server answers, and ends with Ctrl-C.
//
//	serve 8000 python3 -m http.server 8000
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"time"

	m "github.com/sluicenet/sluice/sdk"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: serve PORT COMMAND [ARG…]")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "serve:", err)
		os.Exit(1)
	}
}

// run runs the server until ctx ends, or it does.
func run(ctx context.Context, port string, command []string) error {
	guest, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return fmt.Errorf("port %q: want a number from 1 to 65535", port)
	}
	sb, err := m.CreateSandbox(ctx, fmt.Sprintf("serve-%d", os.Getpid()),
		m.WithBackend("namespace"),
		m.WithNetwork(&m.NetworkConfig{DefaultEgress: m.PolicyActionDeny}),
		m.WithPortBindings(m.PortBinding{GuestPort: uint16(guest)}), // on 127.0.0.1, at a free port
		m.WithStdio(nil, os.Stderr, os.Stderr),
	)
	if err != nil {
		return err
	}
	return errors.Join(serve(ctx, sb, command), sb.Close())
}

// serve starts the server in its sandbox, says where it is and waits for its end.
func serve(ctx context.Context, sb *m.Sandbox, command []string) error {
	published, err := sb.Ports().List(ctx)
	if err != nil {
		return err
	}
	running, over := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		defer over()
		code, err := sb.Attach(ctx, command[0], command[1:]...)
		switch {
		case ctx.Err() != nil: // Ctrl-C
			err = nil
		case err == nil:
			err = fmt.Errorf("the server ended with %d", code)
		}
		ended <- err
	}()
	url := fmt.Sprintf("http://127.0.0.1:%d/", published[0].HostPort)
	if answers(running, url) {
		fmt.Println(url)
	}
	return <-ended
}

// answers asks a server until it answers, or ctx ends.
func answers(ctx context.Context, url string) bool {
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for ctx.Err() == nil {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			return false
		}
		if answer, err := http.DefaultClient.Do(req); err == nil {
			answer.Body.Close()
			return true
		}
		select {
		case <-ctx.Done():
		case <-again.C:
		}
	}
	return false
}
