package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/sluicenet/sluice/internal/control"
)

// spawn starts the process with the descriptors that Main expects. If it fails,
// nothing is left open.
func (p *Process) spawn(l Launch) error {
	var theirs, ours files
	err := p.prepare(l, &theirs, &ours)
	if err == nil {
		started := make(chan error, 1)
		go p.attend(started)
		err = <-started
	}
	err = errors.Join(err, theirs.close())
	if err != nil {
		err = errors.Join(err, ours.close())
	}
	return err
}

// prepare opens what the process gets, theirs, and what stays here, ours, and
// fills in p.
func (p *Process) prepare(l Launch, theirs, ours *files) error {
	path, err := executable(l.Executable)
	if err != nil {
		return err
	}
	null, err := theirs.keep(os.OpenFile(os.DevNull, os.O_RDWR, 0))
	if err != nil {
		return err
	}
	local, remote, err := socketPair()
	if err != nil {
		return err
	}
	*theirs = append(*theirs, local, remote) // conn is another descriptor of local
	conn, err := net.FileConn(local)
	if err != nil {
		return err
	}
	*ours = append(*ours, conn)
	p.conn = conn.(*net.UnixConn)
	lifeline, held, err := os.Pipe()
	if err != nil {
		return err
	}
	*theirs, *ours = append(*theirs, lifeline), append(*ours, held)
	p.lifeline = held
	if p.output, err = ours.keep(namelessFile()); err != nil {
		return err
	}
	p.cmd = &exec.Cmd{
		Path:        path,
		Args:        []string{Role},
		Env:         environment(os.Environ(), l.Kernel),
		Dir:         rootDir,
		Stdin:       null,
		Stdout:      p.output,
		Stderr:      p.output,
		ExtraFiles:  []*os.File{remote, lifeline}, // controlFD, lifelineFD
		SysProcAttr: processAttributes(),
	}
	for _, f := range l.Stdio { // stdioFD and the two behind it
		if f == nil {
			f = null
		}
		p.cmd.ExtraFiles = append(p.cmd.ExtraFiles, f)
	}
	return nil
}

// files are to be closed together.
type files []io.Closer

// keep adds f, unless opening it failed, and returns both.
func (fs *files) keep(f *os.File, err error) (*os.File, error) {
	if err == nil {
		*fs = append(*fs, f)
	}
	return f, err
}

// close closes all.
func (fs files) close() error {
	var errs []error
	for _, f := range fs {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
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
	// What a virtual machine is made of: hv/qemu, hv/krun, guest.Executable, which
	// may build the agent.
	"SLUICE_QEMU_ACCEL", kernelVariable, "SLUICE_AGENT", "SLUICE_LIBKRUN",
	"GOROOT", "GOPATH", "GOMODCACHE", "GOCACHE", "GOPROXY", "GOFLAGS", "GOTOOLCHAIN", "GOSUMDB", "GONOSUMDB",
	"GODEBUG", "GOTRACEBACK", "GOMAXPROCS", "GOMEMLIMIT", "GOCOVERDIR", "GORACE",
}

// kernelVariable names the kernel to backends. See hv/qemu.
const kernelVariable = "SLUICE_KERNEL"

// environment returns those variables of env that are inherited, with another
// kernel unless that is "".
func environment(env []string, kernel string) []string {
	env = slices.DeleteFunc(slices.Clone(env), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return !slices.Contains(inherited, name) || name == kernelVariable && kernel != ""
	})
	if kernel != "" {
		env = append(env, kernelVariable+"="+kernel)
	}
	return env
}

// explain adds to err, which is why the start failed, what the process wrote
// last, unless the sandbox itself said why.
func (p *Process) explain(err error) error {
	var f *control.Failure
	if errors.As(err, &f) {
		return err
	}
	last := p.lastWords()
	if last == "" {
		return err
	}
	return fmt.Errorf("%w; its last words:\n%s", err, last)
}

// maxLastWords bounds what is quoted of a process that crashed, in bytes: a
// panic's message and its first goroutine.
const maxLastWords = 4 << 10

// lastWords returns what the process wrote to its standard output and error: the
// end of it, or the panic if there was one. The process has ended.
func (p *Process) lastWords() string {
	text, err := io.ReadAll(io.NewSectionReader(p.output, 0, 1<<20))
	if err != nil {
		return ""
	}
	if i := bytes.Index(text, []byte("panic: ")); i >= 0 {
		text = text[i:min(len(text), i+maxLastWords)]
	}
	text = text[max(0, len(text)-maxLastWords):]
	return strings.TrimSpace(strings.ToValidUTF8(string(text), "?"))
}
