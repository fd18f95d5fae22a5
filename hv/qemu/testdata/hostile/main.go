// Command hostile is process 1 of a machine that doesn't do what it should. What
// it does instead is what it was linked with: -X main.mode=MODE.
package main

import (
	"bytes"
	"crypto/rand"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

var mode string

func main() {
	for _, m := range [][2]string{{"/proc", "proc"}, {"/sys", "sysfs"}, {"/dev", "devtmpfs"}} {
		os.Mkdir(m[0], 0o755)
		unix.Mount(m[1], m[0], m[1], 0, "")
	}
	modules, _ := filepath.Glob("/modules/*")
	for _, path := range modules {
		if f, err := os.Open(path); err == nil {
			unix.FinitModule(int(f.Fd()), "", 0)
		}
	}
	switch mode {
	case "silent": // and burning the processor
		for {
		}
	case "panic":
		os.Stdout.WriteString("hostile: \x1b]0;title\a about to panic\n")
		os.Exit(1)
	case "nonsense":
		port("sluice.status").WriteString("ready \x1b[2J soon\n")
	case "flood":
		io.Copy(port("sluice.status"), rand.Reader)
	case "lines":
		for status := port("sluice.status"); ; {
			status.WriteString("failed again\n")
		}
	case "failed":
		port("sluice.status").WriteString("failed to please \x1b[31m you\n")
	case "noise":
		port("sluice.status").WriteString("ready 1s 1s\n")
		go io.Copy(os.Stdout, rand.Reader)
		io.Copy(port("sluice.agent"), rand.Reader)
	}
	time.Sleep(time.Hour)
}

// port opens the console port of a name.
func port(name string) *os.File {
	for {
		files, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, file := range files {
			text, _ := os.ReadFile(file)
			if string(bytes.TrimSpace(text)) != name {
				continue
			}
			f, err := os.OpenFile(strings.Replace(filepath.Dir(file), "/sys/class/virtio-ports", "/dev", 1), os.O_RDWR, 0)
			if err == nil {
				return f
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
}
