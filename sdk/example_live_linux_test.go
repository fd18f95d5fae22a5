package sdk_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"

	m "github.com/sluicenet/sluice/sdk"
)

// Signals go to the command and what it started. Kill is the one that can't be
// ignored.
func ExampleExecHandle_Signal() {
	ctx := context.Background()
	sb := create("example-signal")
	defer sb.Close()
	h, err := sb.ShellStream(ctx, "trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.01; done")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer h.Close()
	for e, err := h.Recv(ctx); err == nil && e.Kind != m.ExecEventStdout; e, err = h.Recv(ctx) {
	}
	fmt.Println(h.Signal(ctx, 15))
	out, err := h.Collect(ctx)
	fmt.Print(out.Stdout(), out.ExitCode(), " ", err, "\n")

	endless, err := sb.ExecStream(ctx, "sleep", []string{"1000"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer endless.Close()
	fmt.Println(endless.Kill(ctx))
	fmt.Println(endless.Wait(ctx))
	// Output:
	// <nil>
	// caught
	// 5 <nil>
	// <nil>
	// 137 <nil>
}

// A command with a terminal, of a size of its own.
func ExampleExecHandle_Resize() {
	ctx := context.Background()
	sb := create("example-resize")
	defer sb.Close()
	h, err := sb.ShellStream(ctx, "stty -echo; read go; stty size", m.WithExecTTY(true))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer h.Close()
	fmt.Println(h.Resize(ctx, 40, 120))
	fmt.Fprintln(h.TakeStdin(), "go")
	out, err := h.Collect(ctx)
	fmt.Println(strings.Contains(out.Stdout(), "40 120"), err)
	// Output:
	// <nil>
	// true <nil>
}

func ExampleSandboxFSOps_ReadStream() {
	ctx := context.Background()
	sb := create("example-read-stream")
	defer sb.Close()
	r, err := sb.FS().ReadStream(ctx, "/dev/zero") // as large as files come
	if err != nil {
		fmt.Println(err)
		return
	}
	defer r.Close()
	size := 0
	for size < 1<<20 {
		piece, err := r.Recv(ctx)
		if err != nil || piece == nil { // nil is the end
			fmt.Println(err)
			return
		}
		size += len(piece)
	}
	fmt.Println(size >= 1<<20, r.Close())
	// Output:
	// true <nil>
}

func ExampleSandboxFSOps_Rename() {
	ctx := context.Background()
	sb := create("example-rename")
	defer sb.Close()
	files := sb.FS()
	if err := files.Write(ctx, "/tmp/a", []byte("text")); err != nil {
		fmt.Println(err)
	}
	fmt.Println(files.Rename(ctx, "/tmp/a", "/tmp/b"), files.Copy(ctx, "/tmp/b", "/tmp/c"), files.Remove(ctx, "/tmp/b"))
	fmt.Println(files.Exists(ctx, "/tmp/b"))
	info, err := files.Stat(ctx, "/tmp/c")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(info.Size, info.IsDir)
	fmt.Println(files.Mkdir(ctx, "/tmp/d"), files.Rename(ctx, "/tmp/c", "/tmp/d/c"), files.RemoveDir(ctx, "/tmp/d"))
	// Output:
	// <nil> <nil> <nil>
	// false <nil>
	// 4 false
	// <nil> <nil> <nil>
}

// Commands' output as it comes, and from where one stopped to read.
func ExampleSandbox_LogStream() {
	ctx := context.Background()
	sb := create("example-log-stream")
	defer sb.Close()
	for _, text := range []string{"first", "second"} {
		if _, err := sb.Exec(ctx, "echo", []string{text}); err != nil {
			fmt.Println(err)
		}
	}
	stream, err := sb.LogStream(ctx, m.LogStreamOptions{Sources: []m.LogSource{m.LogSourceStdout}, Follow: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stream.Close()
	e, err := stream.Recv(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(e.Text())
	rest, err := sb.LogStream(ctx, m.LogStreamOptions{FromCursor: e.Cursor})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer rest.Close()
	for e, err = rest.Recv(ctx); e != nil && err == nil; e, err = rest.Recv(ctx) {
		fmt.Print(e.Text())
	}
	fmt.Println(err)
	// Output:
	// first
	// second
	// <nil>
}

// What one sandbox uses, and all of them.
func ExampleSandbox_Metrics() {
	ctx := context.Background()
	sb := create("example-use")
	defer sb.Close()
	use, err := sb.Metrics(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(use.Uptime > 0, use.MemoryBytes > 0)
	all, err := m.AllSandboxMetrics(ctx)
	fmt.Println(all["example-use"] != nil, err)
	// Output:
	// true true
	// true <nil>
}

// A port of the guest's is reached as if it were published.
func ExampleSandbox_Dial() {
	ctx := context.Background()
	sb := create("example-dial")
	defer sb.Close()
	if _, err := sb.Shell(ctx, "mkdir /tmp/www; echo hello > /tmp/www/index.html; busybox httpd -p 8080 -h /tmp/www"); err != nil {
		fmt.Println(err)
	}
	c, err := sb.Dial(ctx, "tcp", ":8080")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	fmt.Fprint(c, "GET /index.html HTTP/1.0\r\n\r\n")
	answer, err := io.ReadAll(c)
	fmt.Println(strings.HasPrefix(string(answer), "HTTP/1.1 200 OK\r\n"), strings.HasSuffix(string(answer), "\r\n\r\nhello\n"), err)
	// Output:
	// true true <nil>
}

// Flows that are open, here one from the guest to a service of the host.
func ExampleSandbox_Flows() {
	ctx := context.Background()
	service, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer service.Close()
	_, port, err := net.SplitHostPort(service.Addr().String())
	if err != nil {
		fmt.Println(err)
		return
	}
	sb := create("example-flows", m.WithNetwork(&m.NetworkConfig{Rules: []m.PolicyRule{{Action: m.PolicyActionAllow, Destination: "host"}}}))
	defer sb.Close()
	c, err := sb.Dial(ctx, "tcp", "host.microsandbox.internal:"+port) // as the guest would
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	flows, err := sb.Flows(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, f := range flows {
		fmt.Println(f.Direction, f.Protocol, f.Dialed.String() == service.Addr().String())
	}
	counts, err := sb.NetworkStats(ctx)
	fmt.Println(counts.TCPFlows, counts.Denied, err)
	// Output:
	// egress tcp true
	// 1 0 <nil>
}

// What would become of a flow, and because of which rule.
func ExampleSandbox_Explain() {
	sb := create("example-explain", m.WithNetwork(&m.NetworkConfig{Rules: []m.PolicyRule{
		{Action: m.PolicyActionAllow, Destination: "9.9.9.9", Protocol: m.PolicyProtocolTCP, Port: "443"},
	}}))
	defer sb.Close()
	for _, target := range []string{"tcp://9.9.9.9:443", "udp://9.9.9.9:443"} {
		e, err := sb.Explain(context.Background(), target)
		if err != nil {
			fmt.Println(err)
			return
		}
		for _, stage := range e.Stages {
			fmt.Println(e.Target, stage.Stage, stage.Action, stage.Source)
		}
	}
	// Output:
	// tcp://9.9.9.9:443 address allow Rules[0]
	// udp://9.9.9.9:443 address deny default egress
}

// What is doubtful in a configuration doesn't keep it from being used.
func ExampleSandbox_Warnings() {
	sb := create("example-warnings", m.WithEphemeral(false))
	for _, w := range sb.Warnings() {
		fmt.Println(w)
	}
	fmt.Println(sb.Close(), m.RemoveSandbox(context.Background(), sb.Name()))
	// Output:
	// without an image or a root of its own the sandbox keeps no files: what is written is gone when it stops
	// <nil> <nil>
}

// The images that are here: loaded, looked at, saved, removed.
func ExampleImage() {
	ctx := context.Background()
	archive, err := busyboxArchive()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.Remove(archive)
	const name = "example/images:1"
	loaded, err := m.Image.Load(ctx, archive, name)
	if err != nil {
		fmt.Println(err)
		return
	}
	all, err := m.Image.List(ctx)
	fmt.Println(slices.ContainsFunc(all, func(h *m.ImageHandle) bool { return h.Reference() == name }), err)
	h, err := m.Image.Get(ctx, name)
	if err != nil {
		fmt.Println(err)
		return
	}
	detail, err := h.Inspect(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(detail.OS(), detail.Config.Cmd, len(detail.Layers) == int(h.LayerCount()), h.ManifestDigest() == loaded[0].ManifestDigest())
	fmt.Println(m.Image.Save(ctx, []string{name}, archive, m.ImageArchiveOCI))
	fmt.Println(m.Image.Remove(ctx, name, false))
	_, err = m.Image.Get(ctx, name)
	fmt.Println(m.IsKind(err, m.ErrImageNotFound))
	// Output:
	// true <nil>
	// linux [sh] true true
	// <nil>
	// <nil>
	// true
}
