package sdk_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	m "github.com/sluicenet/sluice/sdk"
)

// Whether a sandbox answers, and that it is still wanted.
func ExampleSandbox_Ping() {
	ctx := context.Background()
	sb := create("example-ping", m.WithIdleTimeout(time.Hour))
	defer sb.Close()
	pong, err := sb.Ping(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(pong.Name, pong.Latency > 0)
	first, err := sb.Touch(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	second, err := sb.Touch(ctx) // another hour
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(second.Name, second.ActivitySeq > first.ActivitySeq)
	// Output:
	// example-ping true
	// example-ping true
}

func ExampleSandbox_Kill() {
	ctx := context.Background()
	sb := create("example-kill")
	defer sb.Close()
	fmt.Println(sb.Kill(ctx, m.WithKillTimeout(time.Minute)))
	r, err := sb.WaitUntilStopped(ctx)
	fmt.Println(r.Name, r.Status, *r.Source, err)
	// Output:
	// <nil>
	// example-kill stopped kill <nil>
}

// RequestKill is alike.
func ExampleSandbox_RequestStop() {
	ctx := context.Background()
	sb := create("example-request")
	defer sb.Close()
	fmt.Println(sb.RequestStop(ctx)) // it goes on stopping
	r, err := sb.WaitUntilStopped(ctx)
	fmt.Println(r.Status, *r.Source, err)
	// Output:
	// <nil>
	// stopped stop <nil>
}

// What runs may come to its end; what is new is refused.
func ExampleSandbox_RequestDrain() {
	ctx := context.Background()
	sb := create("example-drain")
	defer sb.Close()
	h, err := sb.ExecStream(ctx, "cat", nil, m.WithExecStdinPipe())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer h.Close()
	fmt.Println(sb.RequestDrain(ctx))
	_, err = sb.Shell(ctx, "true")
	fmt.Println(err)
	if err := h.TakeStdin().Close(ctx); err != nil { // cat ends
		fmt.Println(err)
	}
	r, err := sb.WaitUntilStopped(ctx)
	fmt.Println(r.Status, *r.Source, err)
	// Output:
	// <nil>
	// exec in sandbox "example-drain": sandbox "example-drain" is draining: nothing new begins
	// stopped drain <nil>
}

// A sandbox that was kept runs again as it was configured, owned by who starts
// it; StartSandboxDetached leaves it to itself.
func ExampleStartSandbox() {
	ctx := context.Background()
	first := create("example-start", m.WithEphemeral(false), m.WithEnv(map[string]string{"NAME": "guest"}))
	fmt.Println(first.Stop(ctx), first.Close())

	sb, err := m.StartSandbox(ctx, "example-start")
	if err != nil {
		fmt.Println(err)
		return
	}
	out, err := sb.Shell(ctx, "echo hello, $NAME")
	fmt.Print(out.Stdout(), err, "\n")
	fmt.Println(sb.Close(), m.RemoveSandbox(ctx, "example-start"))
	// Output:
	// <nil> <nil>
	// hello, guest
	// <nil>
	// <nil> <nil>
}

// A sandbox can be let go of after it was created.
func ExampleSandbox_Detach() {
	ctx := context.Background()
	sb := create("example-detach")
	fmt.Println(sb.OwnsLifecycleOrFalse(), sb.Detach(ctx), sb.OwnsLifecycleOrFalse(), sb.Close())
	h, err := m.GetSandbox(ctx, "example-detach")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(h.Status(), h.Stop(ctx))
	// Output:
	// true <nil> false <nil>
	// running <nil>
}

// A handle is what was known when it was made.
func ExampleSandboxHandle_Refresh() {
	ctx := context.Background()
	sb := create("example-refresh", m.WithEphemeral(false), m.WithWorkdir("/tmp"))
	defer sb.Close()
	h, err := m.GetSandbox(ctx, "example-refresh")
	if err != nil {
		fmt.Println(err)
		return
	}
	cfg, err := h.Config()
	fmt.Println(h.Status(), cfg.Workdir, time.Since(h.CreatedAt()) < time.Hour, err)
	if err := h.Kill(ctx); err != nil {
		fmt.Println(err)
	}
	later, err := h.Refresh(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(h.Status(), later.Status(), later.Remove(ctx))
	// Output:
	// running /tmp true <nil>
	// running stopped <nil>
}

// A directory of the host, and one in memory.
func ExampleWithMounts() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	sb := create("example-mounts", m.WithMounts(map[string]m.MountConfig{
		"/mnt":     m.Mount.Bind(dir, m.MountOptions{Noexec: true}),
		"/var/tmp": m.Mount.Tmpfs(m.TmpfsOptions{SizeMiB: 16}),
	}))
	defer sb.Close()
	out, err := sb.Shell(ctx, "echo result > /mnt/out && df -m --output=size /var/tmp | tail -n 1")
	fmt.Print(out.Stdout(), err, "\n")
	text, err := os.ReadFile(filepath.Join(dir, "out"))
	fmt.Print(string(text), err, "\n")
	// Output:
	//  16
	// <nil>
	// result
	// <nil>
}

// The default command, with files of this program for its own.
func ExampleSandbox_AttachDefault() {
	sb := create("example-attach-default", m.WithStdio(nil, os.Stdout, os.Stderr), m.WithEntrypoint("sh", "-c"), m.WithCmd("echo $GREETING from $PWD"))
	defer sb.Close()
	code, err := sb.AttachDefault(context.Background(), m.WithAttachEnv(map[string]string{"GREETING": "hello"}), m.WithAttachCwd("/usr"))
	fmt.Println(code, err)
	// Output:
	// hello from /usr
	// 0 <nil>
}

// The guest's shell reads what this program is given to read: at a terminal,
// what is typed.
func ExampleSandbox_AttachShell() {
	in, typed, err := os.Pipe()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer in.Close()
	fmt.Fprintln(typed, "echo in the guest; exit 3")
	if err := typed.Close(); err != nil {
		fmt.Println(err)
	}
	sb := create("example-attach-shell", m.WithStdio(in, os.Stdout, os.Stderr))
	defer sb.Close()
	code, err := sb.AttachShell(context.Background())
	fmt.Println(code, err)
	// Output:
	// in the guest
	// 3 <nil>
}

// AttachWith names the command, and whose files it gets.
func ExampleSandbox_AttachWith() {
	sb := create("example-attach-with", m.WithStdio(nil, os.Stdout, os.Stderr))
	defer sb.Close()
	code, err := sb.AttachWith(context.Background(), "sh", []string{"-c", "id -u; pwd; exit 3"}, m.WithAttachUser("0"), m.WithAttachCwd("/usr"))
	fmt.Println(code, err)
	// Output:
	// 0
	// /usr
	// 3 <nil>
}

// One that was kept goes on without this program, until somebody ends it.
func ExampleStartSandboxDetached() {
	ctx := context.Background()
	first := create("example-start-detached", m.WithEphemeral(false))
	fmt.Println(first.Stop(ctx), first.Close())
	sb, err := m.StartSandboxDetached(ctx, "example-start-detached")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(sb.OwnsLifecycleOrFalse(), sb.Close()) // lets go only
	h, err := m.GetSandbox(ctx, "example-start-detached")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(h.Status(), h.Kill(ctx), h.Remove(ctx))
	// Output:
	// <nil> <nil>
	// false <nil>
	// running <nil> <nil>
}

func ExampleListSandboxes() {
	ctx := context.Background()
	sb := create("example-list")
	defer sb.Close()
	page, err := m.ListSandboxes(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, h := range page.Sandboxes {
		if h.Name() == "example-list" { // others' are there too
			fmt.Println(h.Name(), h.Status(), h.Backend())
		}
	}
	// Output:
	// example-list running namespace
}

// RequestKill doesn't wait; WaitUntilStopped does.
func ExampleSandbox_RequestKill() {
	ctx := context.Background()
	sb := create("example-request-kill")
	defer sb.Close()
	fmt.Println(sb.RequestKill(ctx))
	end, err := sb.WaitUntilStopped(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(end.Status, *end.Source)
	// Output:
	// <nil>
	// stopped kill
}

// ExecDefaultStream hands over what the default command writes, as it comes.
func ExampleSandbox_ExecDefaultStream() {
	ctx := context.Background()
	sb := create("example-exec-default-stream", m.WithCmd("sh", "-c", "echo one; echo two"))
	defer sb.Close()
	h, err := sb.ExecDefaultStream(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer h.Close()
	out, err := h.Collect(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(out.Stdout())
	// Output:
	// one
	// two
}

// Diagnose finds out, by trying, what sandboxes can do on this machine.
func ExampleDiagnose() {
	for _, d := range m.Diagnose(context.Background()) {
		if d.Check == "backend namespace" {
			fmt.Println(d.Check, d.Status)
		}
	}
	// Output:
	// backend namespace ok
}

func ExampleFsReadStream_CopyTo() {
	ctx := context.Background()
	sb := create("example-copy-to")
	defer sb.Close()
	if err := sb.FS().WriteString(ctx, "/tmp/note", "from the guest\n"); err != nil {
		fmt.Println(err)
		return
	}
	r, err := sb.FS().ReadStream(ctx, "/tmp/note")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer r.Close()
	n, err := r.CopyTo(ctx, os.Stdout)
	fmt.Println(n, err)
	// Output:
	// from the guest
	// 15 <nil>
}
