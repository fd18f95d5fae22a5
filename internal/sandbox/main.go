package sandbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/sluicenet/sluice"
	"github.com/sluicenet/sluice/internal/control"
)

// The descriptors that a sandbox's process is started with, behind its standard
// files: input is the null device, output and error go to a file of the
// creator's.
const (
	controlFD  = 3 // the conversation at the start
	lifelineFD = 4 // its end is the creator's end
	stdioFD    = 5 // and the two behind it: the standard files of the guest's command
)

// Main is the life of a sandbox's process. It doesn't return.
func Main(compile Compile) {
	if err := runProcess(compile); err != nil {
		fmt.Fprintln(os.Stderr, "sluice:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// runProcess is Main, but returns.
func runProcess(compile Compile) error {
	file := os.NewFile(controlFD, "control")
	conn, err := net.FileConn(file)
	if err != nil {
		return fmt.Errorf("%s is not a program to start by hand", Role)
	}
	if err := errors.Join(file.Close(), prepareProcess()); err != nil {
		return err
	}
	if err := control.Send(conn, control.Hello{Build: control.Build(), PID: os.Getpid()}); err != nil {
		return err
	}
	var spec control.Spec
	if err := control.Receive(conn, &spec); err != nil {
		return err
	}

	// The root of the process: its end is the sandbox's. The goroutines that may
	// end it live as long as the process.
	ctx, cancel := context.WithCancelCause(context.Background())
	tie := newLeash(os.NewFile(lifelineFD, "lifeline"), cancel)
	go awaitSignal(catchSignals(), cancel)
	context.AfterFunc(ctx, exitLate)

	opts := Options{Compile: compile, Open: sluice.Open, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)), leash: tie}
	for i := range opts.Stdio {
		opts.Stdio[i] = os.NewFile(uintptr(stdioFD+i), "stdio")
	}
	theirs := opts.Stdio
	for i, f := range theirs {
		if isNull(f) {
			opts.Stdio[i] = nil
		}
	}
	s, err := start(ctx, spec, opts)
	// The guest has its own; ours would keep a pipe's reader waiting.
	for _, f := range theirs {
		err = errors.Join(err, f.Close())
	}
	if err == nil {
		if err = s.confine(); err != nil {
			err = errors.Join(err, s.close(control.Ended{At: time.Now()}))
		}
	}
	if err != nil {
		return errors.Join(control.Send(conn, control.Answer{Failure: control.AsFailure(err)}), conn.Close())
	}
	if s.cfg.Detached {
		tie.cut()
	}
	s.run()
	context.AfterFunc(ctx, func() { s.end(sourceOf(ctx)) })
	// A creator that is gone by now shows on the lifeline.
	_ = control.Send(conn, control.Answer{Ready: &control.Ready{Socket: s.claim.socket, Info: s.info}})
	<-s.done
	_ = control.Send(conn, s.ended)
	return conn.Close()
}

// isNull reports whether f is the null device, which stands for no file.
func isNull(f *os.File) bool {
	info, err := f.Stat()
	if err != nil {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err == nil && os.SameFile(info, null)
}

// An endReason is the cause of the end of a process's context.
type endReason string

func (r endReason) Error() string { return "ended by its " + string(r) }

// sourceOf returns why ctx ended, as control.Ended tells it.
func sourceOf(ctx context.Context) string {
	var r endReason
	if errors.As(context.Cause(ctx), &r) {
		return string(r)
	}
	return control.SourceCreator
}

// exitLate ends the process if it hasn't ended itself within endTime: whatever
// keeps it, its creator is gone, or has told it to end.
func exitLate() {
	time.AfterFunc(endTime, func() {
		fmt.Fprintln(os.Stderr, "sluice: the sandbox doesn't end; its process does")
		os.Exit(1)
	})
}

// catchSignals catches what tells a process to end. It has a session of its own,
// so no terminal's signals come here; but what is caught is reset for what the
// process starts, where a signal that the creator was told to ignore, as a
// shell's background jobs are, would be ignored for ever.
func catchSignals() <-chan os.Signal {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	return signals
}

// awaitSignal ends the context with the first signal.
func awaitSignal(signals <-chan os.Signal, cancel context.CancelCauseFunc) {
	<-signals
	cancel(endReason(control.SourceSignal))
}
