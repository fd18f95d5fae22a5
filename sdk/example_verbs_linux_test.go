package sdk_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	m "github.com/sluicenet/sluice/sdk"
)

// create is CreateSandbox for the examples below, which are about what follows.
func create(name string, opts ...m.SandboxOption) *m.Sandbox {
	sb, err := m.CreateSandbox(context.Background(), name, append(opts, m.WithBackend("namespace"))...)
	if err != nil {
		panic(err) // a broken example
	}
	return sb
}

// A command that fails is no error; one that isn't there is.
func ExampleSandbox_Exec() {
	ctx := context.Background()
	sb := create("example-exec")
	defer sb.Close()
	out, err := sb.Exec(ctx, "ls", []string{"/no/such/file"}, m.WithExecCwd("/tmp"), m.WithExecTimeout(time.Minute))
	fmt.Println(out.Success(), strings.Contains(out.Stderr(), "No such file"), err)
	_, err = sb.Exec(ctx, "no-such-program", nil)
	fmt.Println(m.IsKind(err, m.ErrExecFailed))
	// Output:
	// false true <nil>
	// true
}

func ExampleSandbox_ExecDefault() {
	sb := create("example-default", m.WithEntrypoint("echo"), m.WithCmd("hello", "world"))
	defer sb.Close()
	out, err := sb.ExecDefault(context.Background())
	fmt.Print(out.Stdout(), err, "\n")
	// Output:
	// hello world
	// <nil>
}

func ExampleSandbox_Shell() {
	sb := create("example-shell", m.WithEnv(map[string]string{"NAME": "guest"}))
	defer sb.Close()
	out, err := sb.Shell(context.Background(), "echo hello, $NAME; exit 3")
	fmt.Print(out.Stdout(), out.ExitCode(), " ", err, "\n")
	// Output:
	// hello, guest
	// 3 <nil>
}

// Output is handed over as it comes.
func ExampleSandbox_ExecStream() {
	ctx := context.Background()
	sb := create("example-stream")
	defer sb.Close()
	h, err := sb.ExecStream(ctx, "cat", nil, m.WithExecStdinPipe())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer h.Close()
	stdin := h.TakeStdin()
	fmt.Fprintln(stdin, "to the guest and back")
	if err := stdin.Close(ctx); err != nil {
		fmt.Println(err)
	}
	for {
		e, err := h.Recv(ctx)
		if err != nil {
			fmt.Println(err)
			return
		}
		switch e.Kind {
		case m.ExecEventStdout:
			os.Stdout.Write(e.Data)
		case m.ExecEventExited:
			fmt.Println("exit code", e.ExitCode)
		case m.ExecEventDone:
			return
		}
	}
	// Output:
	// to the guest and back
	// exit code 0
}

// A command can be left to itself; what it writes is in the log.
func ExampleExecHandle_Detach() {
	ctx := context.Background()
	sb := create("example-keep")
	defer sb.Close()
	h, err := sb.ShellStream(ctx, "sleep 0.1; echo done", m.WithExecKeep())
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := h.Detach(ctx); err != nil {
		fmt.Println(err)
	}
	stream, err := sb.LogStream(ctx, m.LogStreamOptions{Follow: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stream.Close()
	e, err := stream.Recv(ctx)
	fmt.Print(e.Text(), err, "\n")
	// Output:
	// done
	// <nil>
}

func ExampleSandbox_Attach() {
	sb := create("example-attach", m.WithStdio(nil, os.Stdout, os.Stderr))
	defer sb.Close()
	code, err := sb.Attach(context.Background(), "echo", "straight to standard output")
	fmt.Println(code, err)
	// Output:
	// straight to standard output
	// 0 <nil>
}

func ExampleSandbox_FS() {
	ctx := context.Background()
	sb := create("example-fs", m.WithNetwork(m.NetworkPolicy.None())) // files need no network
	defer sb.Close()
	files := sb.FS()
	if err := files.Mkdir(ctx, "/tmp/work"); err != nil {
		fmt.Println(err)
	}
	if err := files.WriteString(ctx, "/tmp/work/a.txt", "text"); err != nil {
		fmt.Println(err)
	}
	entries, err := files.List(ctx, "/tmp/work")
	if err != nil {
		fmt.Println(err)
	}
	for _, e := range entries {
		fmt.Println(e.Path, e.Kind, e.Size)
	}
	text, err := files.ReadString(ctx, "/tmp/work/a.txt")
	fmt.Println(text, err)
	_, err = files.Read(ctx, "/tmp/work/b.txt")
	fmt.Println(m.IsKind(err, m.ErrPathNotFound))
	// Output:
	// /tmp/work/a.txt file 4
	// text <nil>
	// true
}

// Directories are copied whole.
func ExampleSandboxFSOps_CopyToHost() {
	ctx := context.Background()
	sb := create("example-copy")
	defer sb.Close()
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "in"), []byte("over and back"), 0o600); err != nil {
		fmt.Println(err)
	}
	if err := sb.FS().CopyFromHost(ctx, dir, "/tmp/dir"); err != nil {
		fmt.Println(err)
	}
	if err := sb.FS().CopyToHost(ctx, "/tmp/dir", filepath.Join(dir, "out")); err != nil {
		fmt.Println(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "out", "in"))
	fmt.Println(string(text), err)
	// Output:
	// over and back <nil>
}

// Files of any size are read and written piece by piece.
func ExampleSandboxFSOps_WriteStream() {
	ctx := context.Background()
	sb := create("example-streams")
	defer sb.Close()
	w, err := sb.FS().WriteStream(ctx, "/tmp/large")
	if err != nil {
		fmt.Println(err)
		return
	}
	for i := range 3 {
		fmt.Fprintln(w, "line", i)
	}
	if err := w.Close(ctx); err != nil {
		fmt.Println(err)
	}
	r, err := sb.FS().ReadStream(ctx, "/tmp/large")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer r.Close()
	n, err := r.WriteTo(os.Stdout)
	fmt.Println(n, err)
	// Output:
	// line 0
	// line 1
	// line 2
	// 21 <nil>
}

// A detached sandbox is found by its name, stopped, started again and removed.
func ExampleGetSandbox() {
	ctx := context.Background()
	if err := create("example-detached", m.WithDetached(), m.WithLabel("team", "docs")).Close(); err != nil {
		fmt.Println(err)
	}

	found, err := m.GetSandbox(ctx, "example-detached")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(found.Name(), found.Status(), found.Labels()["team"])
	sb, err := found.Connect(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	out, err := sb.Shell(ctx, "echo still here")
	fmt.Print(out.Stdout(), err, "\n")
	if err := sb.Close(); err != nil { // and it goes on
		fmt.Println(err)
	}
	fmt.Println(found.Stop(ctx))

	again, err := m.StartSandbox(ctx, "example-detached")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(again.OwnsLifecycleOrFalse(), again.Close())
	fmt.Println(m.RemoveSandbox(ctx, "example-detached"))
	// Output:
	// example-detached running docs
	// still here
	// <nil>
	// <nil>
	// true <nil>
	// <nil>
}

func ExampleListSandboxesWith() {
	ctx := context.Background()
	for _, name := range []string{"example-b", "example-a"} {
		defer create(name, m.WithLabel("example", "list")).Close()
	}
	page, err := m.ListSandboxesWith(ctx, m.WithListLabels(map[string]string{"example": "list"}))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, h := range page.Sandboxes {
		fmt.Println(h.Name(), h.Status())
	}
	// Output:
	// example-a running
	// example-b running
}

func ExampleSandbox_WaitUntilStopped() {
	ctx := context.Background()
	sb := create("example-wait", m.WithMaxDuration(100*time.Millisecond))
	defer sb.Close()
	r, err := sb.WaitUntilStopped(ctx)
	fmt.Println(r.Status, *r.Source, err)
	// Output:
	// stopped limit <nil>
}

func ExampleSandbox_Stop() {
	ctx := context.Background()
	sb := create("example-stop")
	defer sb.Close()
	fmt.Println(sb.Stop(ctx, m.WithStopTimeout(time.Second)))
	_, err := sb.Shell(ctx, "true")
	fmt.Println(m.IsKind(err, m.ErrSandboxNotRunning))
	// Output:
	// <nil>
	// true
}

func ExampleSandbox_Logs() {
	ctx := context.Background()
	sb := create("example-logs")
	defer sb.Close()
	if _, err := sb.Shell(ctx, "echo for the record"); err != nil {
		fmt.Println(err)
	}
	entries, err := sb.Logs(ctx, m.LogOptions{Tail: 1})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, e := range entries {
		fmt.Print(e.Source, ": ", e.Text())
	}
	// Output:
	// stdout: for the record
}

func ExampleSandbox_MetricsStream() {
	ctx := context.Background()
	sb := create("example-metrics")
	defer sb.Close()
	stream, err := sb.MetricsStream(ctx, 10*time.Millisecond)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stream.Close()
	for range 2 {
		use, err := stream.Recv(ctx)
		fmt.Println(use.Uptime > 0, err)
	}
	// Output:
	// true <nil>
	// true <nil>
}

// Events of the past, and those to come, until the loop is left.
func ExampleSandbox_Events() {
	sb := create("example-events")
	defer sb.Close()
	for e, err := range sb.Events(context.Background(), m.EventFilter{Types: []string{"sandbox"}}) {
		fmt.Println(e.Type, err)
		break
	}
	// Output:
	// sandbox.started <nil>
}

// A policy is replaced while flows are open; those that it denies are cut.
func ExampleSandbox_UpdateNetwork() {
	ctx := context.Background()
	sb := create("example-update", m.WithNetwork(&m.NetworkConfig{DefaultEgress: m.PolicyActionDeny}))
	defer sb.Close()
	before, err := sb.Explain(ctx, "tcp://9.9.9.9:443")
	if err != nil {
		fmt.Println(err)
		return
	}
	update, err := sb.UpdateNetwork(ctx, &m.NetworkConfig{Rules: []m.PolicyRule{{Action: m.PolicyActionAllow, Destination: "public"}}})
	if err != nil {
		fmt.Println(err)
		return
	}
	after, err := sb.Explain(ctx, "tcp://9.9.9.9:443")
	fmt.Println(before.Allowed(), after.Allowed(), update.Generation > 1, err)
	// Output:
	// false true true <nil>
}

// A service in the guest is spoken to without publishing it.
func ExampleSandbox_HTTPClient() {
	ctx := context.Background()
	sb := create("example-http", m.WithNetwork(m.NetworkPolicy.None()))
	defer sb.Close()
	server, err := sb.ShellStream(ctx, "mkdir /tmp/www; echo hello > /tmp/www/index.html; busybox httpd -p 127.0.0.1:8080 -h /tmp/www; echo up; sleep 1000")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	for e, err := server.Recv(ctx); err == nil && e.Kind != m.ExecEventStdout; e, err = server.Recv(ctx) {
	}
	resp, err := sb.HTTPClient().Get("http://localhost:8080/")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	fmt.Print(resp.StatusCode, " ", string(text), err, "\n")
	// Output:
	// 200 hello
	// <nil>
}

// Ports come and go while the sandbox runs.
func ExampleSandbox_Ports() {
	ctx := context.Background()
	sb := create("example-ports")
	defer sb.Close()
	bound, err := sb.Ports().Add(ctx, m.PortBinding{GuestPort: 80})
	fmt.Println(bound.Bind, bound.HostPort > 0, err)
	fmt.Println(sb.Ports().Remove(ctx, bound))
	left, err := sb.Ports().List(ctx)
	fmt.Println(len(left), err)
	// Output:
	// 127.0.0.1 true <nil>
	// <nil>
	// 0 <nil>
}

// The guest holds a placeholder; the value is in no place where the guest could
// look.
func ExampleWithSecrets() {
	ctx := context.Background()
	sb := create("example-secrets", m.WithSecrets(m.Secret.Env("API_KEY", "the value", m.SecretEnvOptions{AllowHosts: []string{"api.example.com"}})))
	defer sb.Close()
	out, err := sb.Shell(ctx, "echo $API_KEY")
	fmt.Print(out.Stdout(), err, "\n")
	names, err := sb.Secrets().List(ctx)
	fmt.Println(names, err)
	fmt.Println(sb.Secrets().Set(ctx, "API_KEY", "another value"), sb.Secrets().Remove(ctx, "API_KEY"))
	// Output:
	// $MSB_API_KEY
	// <nil>
	// [API_KEY] <nil>
	// <nil> <nil>
}

// Changes of an image's root, made before the first command.
func ExampleWithPatches() {
	ctx := context.Background()
	archive, err := busyboxArchive()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.Remove(archive)
	sb := create("example-patches",
		m.WithImage(archive),
		m.WithPatches(m.Patch.Text("/etc/greeting", "hello\n", m.PatchOptions{}), m.Patch.Mkdir("/app", m.PatchOptions{})),
		m.WithScripts(map[string]string{"greet": "#!/bin/sh\ncat /etc/greeting\n"}),
	)
	defer sb.Close()
	out, err := sb.Exec(ctx, "/.msb/scripts/greet", nil, m.WithExecCwd("/app"))
	fmt.Print(out.Stdout(), err, "\n")
	// Output:
	// hello
	// <nil>
}

// Images come from registries, or from archives.
func ExampleWithImage() {
	ctx := context.Background()
	archive, err := busyboxArchive()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.Remove(archive)
	images, err := m.Image.Load(ctx, archive, "example/busybox:1")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(images[0].Reference())
	sb := create("example-image", m.WithImage("example/busybox:1"), m.WithPullPolicy(m.PullPolicyNever))
	out, err := sb.Shell(ctx, "cat /etc/motd")
	fmt.Print(out.Stdout(), err, " ", sb.Close(), "\n")
	fmt.Println(m.Image.Remove(ctx, "example/busybox:1", false))
	// Output:
	// example/busybox:1
	// hello from the image
	// <nil> <nil>
	// <nil>
}

// Name, status and errors after a sandbox of the same name was replaced.
func ExampleWithReplace() {
	old := create("example-replace")
	defer old.Close()
	_, err := m.CreateSandbox(context.Background(), "example-replace", m.WithBackend("namespace"))
	fmt.Println(m.IsKind(err, m.ErrSandboxAlreadyExists))
	sb := create("example-replace", m.WithReplace())
	defer sb.Close()
	out, err := sb.Shell(context.Background(), "echo new")
	fmt.Print(out.Stdout(), err, "\n")
	// Output:
	// true
	// new
	// <nil>
}
