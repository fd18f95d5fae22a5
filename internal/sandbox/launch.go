package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/sluicenet/sluice/internal/control"
)

// A Launch describes a sandbox that is to run in a process of its own.
type Launch struct {
	Dirs   Dirs
	Name   string          // checked by the caller: it can't lead out of a directory
	Config json.RawMessage // for the Compile function over there
	// Stdio are the standard files of the guest's command; nil entries are the
	// null device. They stay the caller's.
	Stdio [3]*os.File
	// Executable is the program to start; "" is the running one.
	Executable string
}

// A Process is a sandbox's process, seen from its creator. Its methods may be
// called by several goroutines.
type Process struct {
	dirs     Dirs
	name     string
	ready    control.Ready
	cmd      *exec.Cmd
	lifeline *os.File      // the end that nobody writes to
	output   *os.File      // what it says on its standard output and error; nameless
	exited   chan struct{} // closed by attend when the process is gone and swept
}

const (
	// helloTime bounds how long the process may take to say hello: the
	// initialisers of the caller's program run in it first.
	helloTime = 20 * time.Second
	// endTime bounds how long a process that was told to end may take, before
	// it is killed. It is longer than answerTime.
	endTime = 5 * time.Second
)

// StartProcess starts a sandbox's process and returns when the sandbox runs.
// ctx governs the start only. The error is a *[control.Failure] where the
// sandbox said why.
func StartProcess(ctx context.Context, l Launch) (*Process, error) {
	p := &Process{dirs: l.Dirs, name: l.Name, exited: make(chan struct{})}
	conn, err := p.start(l)
	if err != nil {
		return nil, fmt.Errorf("start sandbox process: %w", err)
	}
	err = p.converse(ctx, conn, l)
	err = errors.Join(err, conn.Close())
	if err != nil {
		p.Release()
		p.await(endTime)
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, p.explain(err)
	}
	return p, nil
}

// start starts the process and returns our end of the conversation.
func (p *Process) start(l Launch) (_ net.Conn, err error) {
	var opened []*os.File // closed in any case
	defer func() {
		for _, f := range opened {
			err = errors.Join(err, f.Close())
		}
	}()
	path, err := executable(l.Executable)
	if err != nil {
		return nil, err
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	opened = append(opened, ours, theirs)
	lifelineRead, lifelineWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	opened = append(opened, lifelineRead)
	p.lifeline = lifelineWrite
	if p.output, err = namelessFile(); err != nil {
		return nil, errors.Join(err, p.lifeline.Close())
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, errors.Join(err, p.lifeline.Close(), p.output.Close())
	}
	opened = append(opened, null)

	p.cmd = &exec.Cmd{
		Path:        path,
		Args:        []string{Role},
		Env:         environment(os.Environ()),
		Dir:         rootDir,
		Stdin:       null,
		Stdout:      p.output,
		Stderr:      p.output,
		ExtraFiles:  []*os.File{theirs, lifelineRead},
		SysProcAttr: processAttributes(),
	}
	for _, f := range l.Stdio {
		if f == nil {
			f = null
		}
		p.cmd.ExtraFiles = append(p.cmd.ExtraFiles, f)
	}
	started := make(chan error, 1)
	go p.attend(started)
	if err := <-started; err != nil {
		return nil, errors.Join(err, p.lifeline.Close(), p.output.Close())
	}
	conn, err := net.FileConn(ours)
	if err != nil {
		p.Release()
		p.await(endTime)
	}
	return conn, err
}

// attend starts the process, waits for its end, and removes what it left if it
// didn't come to that itself.
//
// It keeps its thread for so long: the parent-death signal, which is the second
// means to end with the creator, is sent when the thread that started the
// process ends, not the creator.
func (p *Process) attend(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	defer close(p.exited)
	_ = p.cmd.Wait()            // how it ended is told by cmd.ProcessState
	_, _ = p.dirs.sweep(p.name) // the next sandbox would do it otherwise
}

// converse is the creator's side of descriptor 3.
func (p *Process) converse(ctx context.Context, conn net.Conn, l Launch) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := conn.SetReadDeadline(time.Now().Add(helloTime)); err != nil {
		return err
	}
	var hello control.Hello
	if err := control.Receive(conn, &hello); err != nil {
		return fmt.Errorf("%s says no hello (does it import the sdk?): %w", p.cmd.Path, err)
	}
	if build := control.Build(); hello.Build != build {
		return fmt.Errorf("%s is sluice %s, this program has %s: install the same version", p.cmd.Path, hello.Build, build)
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	if ctx.Err() != nil { // the deadline it set may just have been lifted
		return context.Cause(ctx)
	}
	spec := control.Spec{Name: l.Name, Home: l.Dirs.Home, Runtime: l.Dirs.Runtime, Config: l.Config}
	if err := control.Send(conn, spec); err != nil {
		return err
	}
	var answer control.Answer
	if err := control.Receive(conn, &answer); err != nil {
		return fmt.Errorf("the process ended before the sandbox had started: %w", err)
	}
	switch {
	case answer.Failure != nil:
		return answer.Failure
	case answer.Ready == nil:
		return errors.New("the process answered nothing")
	}
	p.ready = *answer.Ready
	return nil
}

// Ready returns what the process said when the sandbox ran.
func (p *Process) Ready() control.Ready { return p.ready }

// Exited is closed when the process has ended and nothing of it is left.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Release lets go of the sandbox, which then ends. It doesn't wait, and is
// idempotent.
func (p *Process) Release() { _ = p.lifeline.Close() }

// Close lets go of the sandbox and waits for the end of its process, which it
// kills if it takes too long. It is idempotent.
func (p *Process) Close() error {
	p.Release()
	p.await(endTime)
	_ = p.output.Close() // closed twice, then
	return nil
}

// await waits for the end of the process, no longer than d; then it kills it.
func (p *Process) await(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-p.exited:
		return
	case <-t.C:
	}
	_ = p.cmd.Process.Kill() // it may just have ended
	<-p.exited
}

// explain adds to err, which is why the start failed, what the process said
// last.
func (p *Process) explain(err error) error {
	last := p.lastWords()
	_ = p.output.Close() // only read
	var f *control.Failure
	if errors.As(err, &f) || last == "" {
		return err
	}
	return fmt.Errorf("%w; its last words:\n%s", err, last)
}

// maxLastWords bounds what is quoted of a process that crashed, in bytes: a
// panic's message and the first goroutine.
const maxLastWords = 4 << 10

// lastWords returns what the process wrote to its standard output and error: the
// end of it, or the beginning of the panic if there was one. Valid after its
// end.
func (p *Process) lastWords() string {
	text, err := io.ReadAll(io.NewSectionReader(p.output, 0, 1<<20))
	if err != nil {
		return ""
	}
	if i := bytes.Index(text, []byte("panic: ")); i >= 0 {
		text = text[i:min(len(text), i+maxLastWords)]
	}
	if n := len(text); n > maxLastWords {
		text = text[n-maxLastWords:]
	}
	return strings.TrimSpace(strings.ToValidUTF8(string(text), "?"))
}

// namelessFile returns a temporary file that has no name any more.
func namelessFile() (*os.File, error) {
	f, err := os.CreateTemp("", "sluice-output-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// inherited are the variables that a sandbox's process gets of its creator's
// environment; others may hold what is nobody else's business.
var inherited = []string{
	"PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "TEMP", "TMP",
	"XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CACHE_HOME", "SLUICE_HOME",
	"SSL_CERT_FILE", "SSL_CERT_DIR",
	"SystemRoot", "LocalAppData",
	"GODEBUG", "GOTRACEBACK", "GOMAXPROCS", "GOMEMLIMIT", "GOCOVERDIR", "GORACE",
}

// environment returns those variables of env that are inherited.
func environment(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return !slices.Contains(inherited, name)
	})
}
