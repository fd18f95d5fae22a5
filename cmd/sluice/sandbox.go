package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	m "github.com/sluicenet/sluice/sdk"
)

// connect connects to the running sandbox of a name.
func connect(ctx context.Context, name string) (*m.Sandbox, error) {
	h, err := m.GetSandbox(ctx, name)
	if err != nil {
		return nil, err
	}
	return h.Connect(ctx)
}

// withSandbox calls do with the running sandbox of a name.
func withSandbox(ctx context.Context, name string, do func(*m.Sandbox) error) error {
	sb, err := connect(ctx, name)
	if err != nil {
		return err
	}
	return errors.Join(do(sb), sb.Close()) // Close leaves the sandbox alone
}

// theOnly returns the name that args hold, or that of the only sandbox that runs.
func theOnly(ctx context.Context, args []string) (string, error) {
	if len(args) > 0 {
		return args[0], nil
	}
	names, err := sandboxNames(ctx, true)
	if err != nil {
		return "", err
	}
	switch len(names) {
	case 0:
		return "", errors.New("no sandbox runs; sluice run starts one")
	case 1:
		return names[0], nil
	}
	return "", fmt.Errorf("several sandboxes run; name one of %s", strings.Join(names, ", "))
}

// sandboxNames returns the names of the sandboxes, or of those that run.
func sandboxNames(ctx context.Context, running bool) ([]string, error) {
	page, err := m.ListSandboxes(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, h := range page.Sandboxes {
		if !running || runs(h) {
			names = append(names, h.Name())
		}
	}
	return names, nil
}

// runs reports whether a sandbox runs.
func runs(h *m.SandboxHandle) bool {
	return h.Status() == m.SandboxStatusRunning || h.Status() == m.SandboxStatusDraining
}

// each calls do with every one and goes on after an error.
func each[T any](all []T, do func(T) error) error {
	var errs []error
	for _, one := range all {
		errs = append(errs, do(one))
	}
	return errors.Join(errs...)
}

// age returns how long ago t was, as one number.
func age(t, now time.Time) string {
	d := now.Sub(t)
	for _, unit := range []struct {
		length time.Duration
		name   string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
		if n := d / unit.length; n == 1 {
			return "1 " + unit.name + " ago"
		} else if n > 1 {
			return fmt.Sprintf("%d %ss ago", n, unit.name)
		}
	}
	return fmt.Sprintf("%d s ago", max(d, 0)/time.Second)
}
