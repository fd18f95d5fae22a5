package kernel

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// modulesKernel returns a kernel with modules as depmod lists them.
func modulesKernel(t *testing.T) Kernel {
	dir := t.TempDir()
	write(t, dir, dependencyFile, []byte(`kernel/drivers/virtio/virtio_ring.ko:
kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko
kernel/net/core/failover.ko.xz:
kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko.xz
kernel/drivers/net/virtio-net.ko.zst: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko.xz kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/a.ko: kernel/b.ko
kernel/b.ko: kernel/a.ko
kernel/broken.ko: kernel/nowhere.ko
../../etc/passwd: kernel/a.ko
nonsense
`))
	write(t, dir, builtinFile, []byte("kernel/fs/ext4/ext4.ko\nkernel/drivers/block/virtio-blk.ko\n"))
	return Kernel{Version: "6.1.0", Modules: dir, arch: "amd64"}
}

func TestModuleOrder(t *testing.T) {
	t.Parallel()
	k := modulesKernel(t)
	for _, row := range []struct {
		names []string
		want  string
		says  string // in the error
	}{
		{[]string{"virtio_net"}, "virtio_ring virtio failover net_failover virtio_net", ""},
		{[]string{"virtio", "virtio_net"}, "virtio_ring virtio failover net_failover virtio_net", ""},
		{[]string{"virtio_net", "virtio"}, "virtio_ring virtio failover net_failover virtio_net", ""},
		{[]string{"ext4", "virtio_blk"}, "", ""},
		{[]string{"a"}, "b a", ""},
		{nil, "", ""},
		{[]string{"nothing"}, "", "kernel 6.1.0: it has no module nothing"},
		{[]string{"broken"}, "", "no module nowhere"},
		{[]string{"passwd"}, "", "no module passwd"},
	} {
		modules, err := k.modules(row.names, nil)
		if row.says != "" {
			if err == nil || !strings.Contains(err.Error(), row.says) {
				t.Errorf("modules(%q): %v; want an error that says %q", row.names, err, row.says)
			}
			continue
		}
		var names []string
		for _, m := range modules {
			names = append(names, m.name)
		}
		if got := strings.Join(names, " "); err != nil || got != row.want {
			t.Errorf("modules(%q) = %q, %v; want %q", row.names, got, err, row.want)
		}
	}
}

// A directory of modules that goes on and on ends somewhere.
func TestTooManyModules(t *testing.T) {
	t.Parallel()
	var chain strings.Builder
	for i := range maxModules + 1 {
		fmt.Fprintf(&chain, "m%d.ko: m%d.ko\n", i, i+1)
	}
	for _, row := range []struct {
		name, list, want string
	}{
		{"needed", strings.Join(strings.SplitAfter(chain.String(), "\n")[:1000], "") + "m1000.ko:\n", "it needs 1001 modules; 256 are the most"},
		{"there", chain.String(), "more than 65536 lines"},
	} {
		dir := t.TempDir()
		write(t, dir, dependencyFile, []byte(row.list))
		if list, err := (Kernel{Version: "6.1.0", Modules: dir}).modules([]string{"m0"}, nil); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %d modules, %v; want an error that says %q", row.name, len(list), err, row.want)
		}
	}
}

func TestHas(t *testing.T) {
	t.Parallel()
	k := modulesKernel(t)
	for _, row := range []struct {
		kernel Kernel
		name   string
		want   bool
	}{
		{k, "virtio_net", true},
		{k, "ext4", true},
		{k, "virtio_mmio", false},
		{Kernel{}, "virtio_mmio", true},
		{Kernel{Modules: "/nowhere"}, "virtio_mmio", false},
	} {
		if got := row.kernel.Has(row.name); got != row.want {
			t.Errorf("Has(%s) = %v; want %v", row.name, got, row.want)
		}
	}
}

// Modules come as the kernel takes them, whatever the distribution packs them in.
func TestReadModule(t *testing.T) {
	t.Parallel()
	text := bytes.Repeat([]byte("module"), 1000)
	pack := func(w io.WriteCloser, b *bytes.Buffer) []byte {
		w.Write(text)
		w.Close()
		return b.Bytes()
	}
	var zipped, zstandard bytes.Buffer
	z, err := zstd.NewWriter(&zstandard)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, row := range []struct {
		name       string
		content    []byte
		want       []byte // nil: an error
		compressed bool
	}{
		{"m.ko", text, text, false},
		{"m.ko.gz", pack(gzip.NewWriter(&zipped), &zipped), text, false},
		{"m.ko.zst", pack(z, &zstandard), text, false},
		{"m.ko.xz", []byte("\xfd7zXZ"), []byte("\xfd7zXZ"), true},
		{"bad.ko.gz", []byte("no"), nil, false},
		{"bad.ko.zst", []byte("no"), nil, false},
	} {
		write(t, dir, row.name, row.content)
		got, compressed, err := Kernel{}.read(module{path: filepath.Join(dir, row.name)})
		if (err != nil) != (row.want == nil) || !bytes.Equal(got, row.want) || compressed != row.compressed {
			t.Errorf("%s: %d bytes, %v, %v; want %d bytes, %v", row.name, len(got), compressed, err, len(row.want), row.compressed)
		}
	}
	if _, _, err := (Kernel{}).read(module{path: filepath.Join(dir, "none.ko")}); !os.IsNotExist(err) {
		t.Errorf("a module that is missing: %v", err)
	}
}

// An initramfs has the agent where the kernel runs it, and the modules in order.
func TestInitramfs(t *testing.T) {
	t.Parallel()
	k := modulesKernel(t)
	for _, name := range []string{"drivers/virtio/virtio_ring.ko", "drivers/virtio/virtio.ko"} {
		write(t, k.Modules, "kernel/"+name, []byte("text of "+name))
	}
	write(t, k.Modules, "kernel/net/core/failover.ko.xz", []byte("packed"))
	agent := filepath.Join(t.TempDir(), "agent")
	write(t, "", agent, []byte("agent"))
	f, err := k.Initramfs(agent, "/sluice:machine", "/modules", []string{"virtio", "ext4"}, []string{"nothing", "failover"})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	entries := readCPIO(t, text)
	var names []string
	for name := range entries {
		names = append(names, name)
	}
	slices.Sort(names)
	want := []string{
		"dev", "dev/console", "modules", "modules/000-failover.ko.xz", "modules/001-virtio_ring.ko", "modules/002-virtio.ko", "sluice:machine",
	}
	if !slices.Equal(names, want) {
		t.Errorf("initramfs has %q; want %q", names, want)
	}
	if got := entries["sluice:machine"]; got.content != "agent" || got.mode != 0o100755 {
		t.Errorf("agent is %+v", got)
	}
	if got := entries["modules/002-virtio.ko"].content; got != "text of drivers/virtio/virtio.ko" {
		t.Errorf("module has %q", got)
	}
}

func TestInitramfsFailures(t *testing.T) {
	t.Parallel()
	k := modulesKernel(t) // whose modules have no files
	agent := filepath.Join(t.TempDir(), "agent")
	write(t, "", agent, []byte("agent"))
	for _, row := range []struct {
		name   string
		kernel Kernel
		agent  string
		module string
	}{
		{"libkrunfw", Kernel{Bundled: true}, agent, "virtio"},
		{"no agent", k, agent + "2", "ext4"},
		{"no such module", k, agent, "nothing"},
		{"a module's file is missing", k, agent, "virtio"},
		{"no list of modules", Kernel{Modules: "/nowhere"}, agent, "virtio"},
	} {
		if f, err := row.kernel.Initramfs(row.agent, "/init", "/modules", []string{row.module}, nil); err == nil {
			f.Close()
			t.Errorf("%s: no error", row.name)
		}
	}
}

// A kernel without initramfs gets the same as a disk.
func TestBootDisk(t *testing.T) {
	t.Parallel()
	agent := filepath.Join(t.TempDir(), "agent")
	write(t, "", agent, bytes.Repeat([]byte("agent"), 3000))
	f, err := Kernel{Bundled: true}.BootDisk(agent, "/sluice:machine", "/dev", "/proc")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	super := make([]byte, 2048)
	if _, err := f.ReadAt(super, 0); err != nil || super[1024+0x38] != 0x53 || super[1024+0x39] != 0xef {
		t.Errorf("it is no ext4: % x, %v", super[1024+0x38:1024+0x3a], err)
	}
	if f, err := (Kernel{Bundled: true}).BootDisk(agent+"2", "/init"); err == nil {
		f.Close()
		t.Error("no error without an agent")
	}
}
