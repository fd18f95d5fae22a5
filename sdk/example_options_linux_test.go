package sdk_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/sluicenet/sluice/hv/hvtest"
	m "github.com/sluicenet/sluice/sdk"
)

// What a command gets from its options, and what is kept of its output.
func ExampleExecOption() {
	ctx := context.Background()
	sb := create("example-exec-options", m.WithHostname("box"), m.WithAddHost("db.example", "10.1.2.3"), m.WithLabels(map[string]string{"team": "net"}))
	defer sb.Close()
	out, err := sb.Shell(ctx, `hostname; echo $GREETING >&2; grep -o "10.1.2.3" /etc/hosts`, m.WithExecEnv(map[string]string{"GREETING": "hello"}), m.WithExecUser("0"))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%q %q\n", out.StdoutBytes(), out.StderrBytes())
	_, err = sb.Exec(ctx, "cat", []string{"/dev/zero"}, m.WithExecMaxOutput(1<<10))
	fmt.Println(m.IsKind(err, m.ErrIO), strings.Contains(err.Error(), "more than 1024 bytes"))
	// Output:
	// "box\n10.1.2.3\n" "hello\n"
	// true true
}

// A command's number is that of its entries in the log; its input can have a deadline.
func ExampleExecSink() {
	ctx := context.Background()
	sb := create("example-sink")
	defer sb.Close()
	h, err := sb.ExecStream(ctx, "cat", nil, m.WithExecStdinPipe())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer h.Close()
	id, err := h.ID()
	fmt.Println(id != "", err)
	in := h.TakeStdin()
	soon, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	fmt.Println(in.WriteCtx(soon, []byte("typed\n")), in.Close(ctx))
	out, err := h.Collect(ctx)
	fmt.Println(out.Stdout(), err)
	file, err := sb.FS().WriteStream(ctx, "/tmp/file")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(file.WriteCtx(soon, []byte("text")), file.Close(ctx))
	// Output:
	// true <nil>
	// <nil> <nil>
	// typed
	//  <nil>
	// <nil> <nil>
}

// A terminal is left by keys of the caller's choice, and commands get the signals that
// it wants to pass on.
func ExampleWithAttachDetachKeys() {
	sb := create("example-attach-options", m.WithStdio(nil, os.Stdout, os.Stderr))
	defer sb.Close()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	defer signal.Stop(signals)
	code, err := sb.AttachWith(context.Background(), "true", nil, m.WithAttachDetachKeys("ctrl-p,ctrl-q"), m.WithAttachSignals(signals))
	fmt.Println(code, err)
	_, err = sb.AttachWith(context.Background(), "true", nil, m.WithAttachDetachKeys("ctrl-§"))
	fmt.Println(m.IsKind(err, m.ErrInvalidArgument))
	// Output:
	// 0 <nil>
	// true
}

// A sandbox that was stopped can be started by its handle; meanwhile its events are a
// file.
func ExampleSandboxHandle_Start() {
	ctx := context.Background()
	sb := create("example-handle-start", m.WithEphemeral(false))
	owns, err := sb.OwnsLifecycle()
	fmt.Println(owns, err, sb.EventsPath() != "", sb.Close())
	h, err := m.GetSandbox(ctx, sb.Name())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(h.Status(), h.UpdatedAt().After(h.CreatedAt()), strings.Contains(h.ConfigJSON(), "namespace"), h.EventsPath() == sb.EventsPath())
	again, err := h.Start(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(again.Stop(ctx), again.Close())
	detached, err := h.StartDetached(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(detached.OwnsLifecycleOrFalse(), detached.Kill(ctx), detached.Close(), m.RemoveSandbox(ctx, h.Name()))
	// Output:
	// true <nil> true <nil>
	// stopped true true true
	// <nil> <nil>
	// false <nil> <nil> <nil>
}

// Pages of sandboxes, by their labels.
func ExampleWithListCursor() {
	ctx := context.Background()
	for _, name := range []string{"example-page-1", "example-page-2", "example-page-3"} {
		defer create(name, m.WithLabel("page", "yes")).Close()
	}
	cursor := ""
	for {
		page, err := m.ListSandboxesWith(ctx, m.WithListLabels(map[string]string{"page": "yes"}), m.WithListLimit(2), m.WithListCursor(cursor))
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(len(page.Sandboxes))
		if page.NextCursor == nil {
			return
		}
		cursor = *page.NextCursor
	}
	// Output:
	// 2
	// 1
}

// A sandbox on a hypervisor of the caller's, as tests have one, runs inside this
// program. Its remarks go to a logger.
func ExampleWithHypervisor() {
	ctx := context.Background()
	var remarks bytes.Buffer
	sb, err := m.CreateSandbox(ctx, "example-embedded", m.WithHypervisor(&hvtest.Fake{}), m.WithLogger(slog.New(slog.NewTextHandler(&remarks, nil))),
		m.WithNetwork(&m.NetworkConfig{DefaultIngress: m.PolicyActionDeny}))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(sb.Backend(), sb.Close(), strings.Contains(remarks.String(), "nothing may leave"))
	// Output:
	// fake <nil> true
}

// What is known of an image that is here.
func ExampleImageHandle() {
	ctx := context.Background()
	archive, err := busyboxArchive()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.Remove(archive)
	loaded, err := m.Image.Load(ctx, archive, "example/handle:1")
	if err != nil {
		fmt.Println(err)
		return
	}
	h := loaded[0]
	fmt.Println(h.OS(), h.Architecture() == testArch, *h.SizeBytes() > 0, h.BuiltAt().After(time.Now()), h.Damaged())
	// A directory can be a root, too: here one with what the image has.
	root, err := os.MkdirTemp("", "root")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(root)
	if err := copyBusybox(ctx, h.Reference(), root); err != nil {
		fmt.Println(err)
		return
	}
	sb := create("example-root", m.WithBindRootfs(root), m.WithReplaceWithTimeout(time.Second), m.WithUser("0:0"))
	defer sb.Close()
	out, err := sb.Exec(ctx, "/bin/busybox", []string{"echo", "from a directory"})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, _ = io.WriteString(os.Stdout, out.Stdout())
	// Output:
	// linux true true false false
	// from a directory
}

// copyBusybox copies the busybox of an image to a directory of the host.
func copyBusybox(ctx context.Context, image, root string) error {
	sb := create("example-copy-busybox", m.WithImage(image))
	defer sb.Close()
	if err := os.Mkdir(root+"/bin", 0o755); err != nil {
		return err
	}
	if err := os.Chmod(root, 0o755); err != nil {
		return err
	}
	return sb.FS().CopyToHost(ctx, "/bin/busybox", root+"/bin/busybox")
}
