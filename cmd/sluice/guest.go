package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	m "github.com/sluicenet/sluice/sdk"
)

// guestFlags are the flags of run that describe the guest.
type guestFlags struct {
	name        string
	backend     string
	kernel      string
	rootfs      string
	pull        string
	workdir     string
	user        string
	hostname    string
	env         []string
	volumes     []string
	labels      []string
	cpus        uint8
	memory      mebibytes
	remove      bool
	maxDuration time.Duration
	idleTimeout time.Duration
}

func (f *guestFlags) register(flags *pflag.FlagSet) {
	flagGroup(flags, "Guest", f.registerFlags)
}

func (f *guestFlags) registerFlags(flags *pflag.FlagSet) {
	flags.StringVar(&f.name, "name", "", "`NAME` of the sandbox, which is kept then (default: one made up)")
	flags.BoolVar(&f.remove, "rm", false, "keep nothing after the end, in spite of --name or -d")
	flags.StringVar(&f.backend, "backend", "", "hypervisor: auto, or a `NAME` that sluice doctor lists (default $SLUICE_BACKEND)")
	flags.StringVar(&f.kernel, "kernel", "", "`KERNEL` to boot: a path, or oci:// and an image (default $SLUICE_KERNEL)")
	flags.StringVar(&f.rootfs, "rootfs", "", "`DIR` that becomes the root")
	flags.StringVar(&f.pull, "pull", "", "ask the registry for the image `WHEN`: always, if-missing or never (default if-missing)")
	flags.StringArrayVarP(&f.volumes, "volume", "v", nil, "show `HOST:GUEST`[:ro]; repeatable")
	flags.StringVarP(&f.workdir, "workdir", "w", "", "`DIR` to start in; . is this one")
	flags.StringVarP(&f.user, "user", "u", "", "`USER[:GROUP]` to run as, names or numbers")
	flags.StringVar(&f.hostname, "hostname", "", "the guest's own `NAME` (default: the sandbox's)")
	flags.StringArrayVarP(&f.env, "env", "e", nil, "`VAR`=VALUE, or VAR for this shell's value; repeatable")
	flags.StringArrayVar(&f.labels, "label", nil, "label `KEY=VALUE`, for sluice ls; repeatable")
	flags.Uint8VarP(&f.cpus, "cpus", "c", 0, "`N` processors")
	flags.VarP(&f.memory, "memory", "m", "memory, in `MiB` or as 512m or 2g")
	flags.DurationVar(&f.maxDuration, "max-duration", 0, "end the sandbox after a `TIME` such as 10m")
	flags.DurationVar(&f.idleTimeout, "idle-timeout", 0, "end it when nothing ran in it for a `TIME`")
}

// options returns what the flags ask for. detached says that the sandbox outlives
// this program.
func (f *guestFlags) options(image string, detached bool) ([]m.SandboxOption, error) {
	env, err := environment(f.env)
	if err != nil {
		return nil, err
	}
	mounts, err := parseVolumes(f.volumes)
	if err != nil {
		return nil, err
	}
	labels, err := parseLabels(f.labels)
	if err != nil {
		return nil, err
	}
	workdir := f.workdir
	if strings.HasPrefix(workdir, ".") {
		if workdir, err = filepath.Abs(workdir); err != nil {
			return nil, fmt.Errorf("--workdir %s: %w", f.workdir, err)
		}
	}
	opts := []m.SandboxOption{
		m.WithImage(image),
		m.WithBackend(f.backend),
		m.WithKernel(f.kernel),
		m.WithBindRootfs(f.rootfs),
		m.WithPullPolicy(m.PullPolicy(f.pull)),
		m.WithWorkdir(workdir),
		m.WithUser(f.user),
		m.WithHostname(f.hostname),
		m.WithEnv(env),
		m.WithMounts(mounts),
		m.WithLabels(labels),
		m.WithCPUs(f.cpus),
		m.WithMemory(uint32(f.memory)),
		m.WithMaxDuration(f.maxDuration),
		m.WithIdleTimeout(f.idleTimeout),
		m.WithEphemeral(f.remove || f.name == "" && !detached),
	}
	if detached {
		opts = append(opts, m.WithDetached())
	}
	return opts, nil
}

// environment reads the values of --env, and passes on what programs need to
// know about a terminal.
func environment(entries []string) (map[string]string, error) {
	env := make(map[string]string)
	if term, ok := os.LookupEnv("TERM"); ok {
		env["TERM"] = term
	}
	for _, entry := range entries {
		name, value, given := strings.Cut(entry, "=")
		if name == "" {
			return nil, fmt.Errorf("--env %q: want NAME=VALUE or NAME", entry)
		}
		if !given {
			var ok bool
			if value, ok = os.LookupEnv(name); !ok {
				return nil, fmt.Errorf("--env %s: is not set in this shell; write %s=VALUE", name, name)
			}
		}
		env[name] = value
	}
	return env, nil
}

// parseVolumes reads HOST:GUEST[:ro].
func parseVolumes(texts []string) (map[string]m.MountConfig, error) {
	mounts := make(map[string]m.MountConfig)
	for _, text := range texts {
		parts := strings.Split(text, ":")
		if len(parts) < 2 || len(parts) > 3 || parts[0] == "" || len(parts) == 3 && parts[2] != "ro" && parts[2] != "rw" {
			return nil, fmt.Errorf("--volume %q: want HOST:GUEST or HOST:GUEST:ro", text)
		}
		host, err := filepath.Abs(parts[0])
		if err != nil {
			return nil, fmt.Errorf("--volume %q: %w", text, err)
		}
		if _, twice := mounts[parts[1]]; twice {
			return nil, fmt.Errorf("--volume %q: %s is covered already", text, parts[1])
		}
		mounts[parts[1]] = m.Mount.Bind(host, m.MountOptions{Readonly: len(parts) == 3 && parts[2] == "ro"})
	}
	return mounts, nil
}

// mebibytes is the value of --memory.
type mebibytes uint32

// Set implements pflag.Value. It takes a number of MiB, or one with docker's
// unit.
func (b *mebibytes) Set(text string) error {
	number, unit := strings.ToLower(text), uint64(1)
	switch {
	case strings.HasSuffix(number, "m"):
		number = number[:len(number)-1]
	case strings.HasSuffix(number, "g"):
		number, unit = number[:len(number)-1], 1<<10
	}
	n, err := strconv.ParseUint(number, 10, 20)
	if err != nil {
		return errors.New("want a number of MiB, or one such as 512m or 2g")
	}
	*b = mebibytes(n * unit)
	return nil
}

// String and Type implement pflag.Value.
func (b *mebibytes) String() string { return "" }
func (b *mebibytes) Type() string   { return "memory" }
