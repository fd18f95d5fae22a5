package sdk_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	m "github.com/sluicenet/sluice/sdk"
)

// openTerminal returns both ends of a terminal of 24 rows and 80 columns.
func openTerminal(t *testing.T) (keyboard, screen *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { keyboard.Close() })
	fd := int(keyboard.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	screen, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { screen.Close() })
	setSize(t, keyboard, 24, 80)
	return keyboard, screen
}

func setSize(t *testing.T, f *os.File, rows, cols uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(f.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}); err != nil {
		t.Fatal(err)
	}
}

// await reads from a terminal until it has shown a text.
func await(t *testing.T, r *bufio.Reader, text string) {
	t.Helper()
	var seen bytes.Buffer
	for !strings.Contains(seen.String(), text) {
		b, err := r.ReadByte()
		if err != nil {
			t.Fatalf("after %q: %v", seen.String(), err)
		}
		seen.WriteByte(b)
	}
}

// TestAttachTerminal checks that a user's terminal is the command's, that its
// size follows, and that it is as before in the end.
func TestAttachTerminal(t *testing.T) {
	t.Parallel()
	keyboard, screen := openTerminal(t)
	sb := running(t, "attach-terminal", m.WithStdio(screen, screen, screen))
	before, err := unix.IoctlGetTermios(int(screen.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		code, err := sb.Attach(t.Context(), "sh", "-c", "echo at $(stty size); read line; echo got $line; read line; stty size; exit 5")
		if err == nil && code != 5 {
			err = errors.New("another exit code")
		}
		ended <- err
	}()
	r := bufio.NewReader(keyboard)
	await(t, r, "at 24 80")
	if _, err := io.WriteString(keyboard, "hello\r"); err != nil {
		t.Fatal(err)
	}
	await(t, r, "got hello")
	setSize(t, keyboard, 30, 100)
	if err := unix.Kill(os.Getpid(), unix.SIGWINCH); err != nil { // the terminal isn't ours, so the kernel doesn't
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond) // the new size is on its way
	if _, err := io.WriteString(keyboard, "\r"); err != nil {
		t.Fatal(err)
	}
	await(t, r, "30 100")
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	after, err := unix.IoctlGetTermios(int(screen.Fd()), unix.TCGETS)
	if err != nil || *after != *before {
		t.Errorf("the terminal was %+v, is %+v, %v", before, after, err)
	}
}

// TestAttachDetachKeys checks that a user can leave a command, which goes on.
func TestAttachDetachKeys(t *testing.T) {
	t.Parallel()
	keyboard, screen := openTerminal(t)
	sb := running(t, "attach-detach", m.WithStdio(screen, screen, screen))
	type end struct {
		code int
		err  error
	}
	ended := make(chan end, 1)
	go func() {
		code, err := sb.AttachWith(t.Context(), "sh", []string{"-c", "echo ready; sleep 0.3; echo went on; sleep 1000"}, m.WithAttachDetachKeys("ctrl-p,ctrl-q"))
		ended <- end{code, err}
	}()
	await(t, bufio.NewReader(keyboard), "ready")
	if _, err := io.WriteString(keyboard, "x\x10\x11"); err != nil {
		t.Fatal(err)
	}
	if e := <-ended; e.err != nil || e.code != 0 {
		t.Errorf("left with %+v", e)
	}
	log, err := sb.LogStream(t.Context(), m.LogStreamOptions{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	var text strings.Builder
	for !strings.Contains(text.String(), "went on") {
		e, err := log.Recv(t.Context())
		if err != nil || e == nil {
			t.Fatalf("the log ends with %q: %v", text.String(), err)
		}
		text.WriteString(e.Text())
	}
	if _, err := sb.AttachWith(t.Context(), "true", nil, m.WithAttachDetachKeys("ctrl-")); !m.IsKind(err, m.ErrInvalidArgument) {
		t.Errorf("keys that aren't: %v", err)
	}
}

// TestAttachStreams checks a command of a sandbox that this program didn't
// create, and so has no files of it: what it reads and writes is copied.
func TestAttachStreams(t *testing.T) {
	// Not parallel: standard files are this process's.
	ctx := t.Context()
	running(t, "attach-streams", m.WithCmd("cat"))
	h, err := m.GetSandbox(ctx, "attach-streams")
	if err != nil {
		t.Fatal(err)
	}
	sb, err := h.Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer sb.Close()
	in, typed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	shown, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []*os.File{in, typed, shown, out} {
		defer f.Close()
	}
	stdin, stdout := os.Stdin, os.Stdout
	os.Stdin, os.Stdout = in, out
	defer func() { os.Stdin, os.Stdout = stdin, stdout }()
	go func() {
		_, _ = io.WriteString(typed, "through and through\n")
		typed.Close()
	}()
	if code, err := sb.AttachDefault(ctx); code != 0 || err != nil {
		t.Errorf("exit code %d, %v", code, err)
	}
	out.Close()
	if text, err := io.ReadAll(shown); string(text) != "through and through\n" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	// A command that doesn't read ends although nothing was typed.
	idle, keeps, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	defer keeps.Close()
	os.Stdin = idle
	if code, err := sb.Attach(ctx, "sh", "-c", "exit 6"); code != 6 || err != nil {
		t.Errorf("exit code %d, %v", code, err)
	}
	go func() {
		_, _ = io.WriteString(keeps, "exit 8\n")
	}()
	if code, err := sb.AttachShell(ctx); code != 8 || err != nil {
		t.Errorf("exit code of the shell %d, %v", code, err)
	}
}
