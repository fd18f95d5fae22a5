package sdk

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"time"

	"github.com/sluicenet/sluice/hv"
)

// A SandboxConfig is what the options of CreateSandbox add up to. Its JSON form
// is what a sandbox's directory keeps; secrets' values, credentials, and what
// only the caller can hold (events, logger, files, a hypervisor), are left out.
type SandboxConfig struct {
	// Image is the reference of an OCI image; BindRootfs a directory of the
	// host that becomes the guest's root. With neither a namespace shows the
	// host's files read-only.
	Image      string `json:"image,omitempty"`
	BindRootfs string `json:"bind_rootfs,omitempty"`
	// Backend names the hypervisor; "" or auto is the machine's default.
	Backend string `json:"backend,omitempty"`
	// Kernel is the guest's, of a backend that boots one: a path of the host, or
	// oci:// and the reference of an image; "" leaves it to the backend.
	Kernel    string `json:"kernel,omitempty"`
	MemoryMiB uint32 `json:"memory_mib,omitempty"` // 0 is the backend's default
	CPUs      uint8  `json:"cpus,omitempty"`       // 0 is the backend's default
	Hostname  string `json:"hostname,omitempty"`   // "" is the sandbox's name
	// Workdir is where commands start; "" is the image's, or else the root
	// directory. User is who runs them: name, uid, name:group or uid:gid; "" is
	// the image's, or else root. Shell is what Shell and AttachShell run; "" is
	// /bin/sh.
	Workdir string `json:"workdir,omitempty"`
	User    string `json:"user,omitempty"`
	Shell   string `json:"shell,omitempty"`
	// Env is the environment of commands, on top of the image's, which is on
	// top of a small default.
	Env map[string]string `json:"env,omitempty"`
	// Entrypoint and Cmd, joined, are the default command; nil is the image's.
	Entrypoint []string `json:"entrypoint,omitempty"`
	Cmd        []string `json:"cmd,omitempty"`
	// Labels are for whoever lists sandboxes.
	Labels map[string]string `json:"labels,omitempty"`

	// Replace ends and removes a sandbox of the same name first, which
	// ReplaceWithTimeout gives that long to end; nil means 10 s.
	Replace            bool           `json:"-"`
	ReplaceWithTimeout *time.Duration `json:"-"`
	// Detached lets the sandbox outlive this program.
	Detached bool `json:"detached,omitempty"`
	// Ephemeral removes what the sandbox leaves as soon as it has ended; nil
	// means unless it is Detached.
	Ephemeral *bool `json:"ephemeral,omitempty"`
	// MaxDuration ends the sandbox after that long, IdleTimeout when nothing
	// was asked of it, and no command ran, for so long; 0 means never.
	MaxDuration time.Duration `json:"max_duration_ns,omitempty"`
	IdleTimeout time.Duration `json:"idle_timeout_ns,omitempty"`
	// LogLevel is the least of the sandbox's own remarks that become events; ""
	// is info. QuietLogs keeps all of them back.
	LogLevel  LogLevel `json:"log_level,omitempty"`
	QuietLogs bool     `json:"quiet_logs,omitempty"`

	// PullPolicy says when a registry is asked for the image. The rest is how.
	PullPolicy          PullPolicy    `json:"pull_policy,omitempty"`
	RegistryAuth        *RegistryAuth `json:"-"`
	RegistryInsecure    bool          `json:"registry_insecure,omitempty"`
	RegistryCACerts     []byte        `json:"-"` // PEM
	RegistryCACertsPath string        `json:"registry_ca_certs_path,omitempty"`

	// Patches change the root before the guest starts; Scripts put programs
	// into it, at /.msb/scripts; Mounts are by the path in the guest.
	Patches []PatchConfig          `json:"patches,omitempty"`
	Scripts map[string]string      `json:"scripts,omitempty"`
	Mounts  map[string]MountConfig `json:"mounts,omitempty"`

	// AddHosts are names that the guest knows by its /etc/hosts; see WithAddHost.
	AddHosts map[string][]string `json:"add_hosts,omitempty"`

	Network      *NetworkConfig    `json:"network,omitempty"`
	Ports        map[uint16]uint16 `json:"ports,omitempty"`         // TCP, host port on 127.0.0.1 to guest port
	PortsUDP     map[uint16]uint16 `json:"ports_udp,omitempty"`     // the same for UDP
	PortBindings []PortBinding     `json:"port_bindings,omitempty"` // with explicit addresses
	Secrets      []SecretEntry     `json:"secrets,omitempty"`

	local

	image      *imageDefaults // nil without an image, and before it was pulled
	bootKernel string         // path of the kernel to boot; "" without one, and before it was pulled
}

// local is the part of a configuration that can't leave the program which made it.
type local struct {
	hypervisor hv.Hypervisor
	events     func(Event)
	eventTypes []string // that events gets; none means all
	logger     *slog.Logger
	progress   func(PullProgress)
	stdio      *[3]*os.File // nil: those of this program
}

// keep reports whether what the sandbox leaves stays.
func (c *SandboxConfig) keep() bool {
	if c.Ephemeral != nil {
		return !*c.Ephemeral
	}
	return c.Detached
}

// A LogLevel is how grave a remark is.
type LogLevel string

const (
	LogLevelDefault LogLevel = "" // info
	LogLevelTrace   LogLevel = "trace"
	LogLevelDebug   LogLevel = "debug"
	LogLevelInfo    LogLevel = "info"
	LogLevelWarn    LogLevel = "warn"
	LogLevelError   LogLevel = "error"
)

// logLevels are all levels, as package slog has them. Trace is as far below
// debug as debug is below info.
var logLevels = map[LogLevel]slog.Level{
	LogLevelDefault: slog.LevelInfo,
	LogLevelTrace:   slog.LevelDebug - (slog.LevelInfo - slog.LevelDebug),
	LogLevelDebug:   slog.LevelDebug,
	LogLevelInfo:    slog.LevelInfo,
	LogLevelWarn:    slog.LevelWarn,
	LogLevelError:   slog.LevelError,
}

// silence is a level that no remark has.
const silence = slog.Level(math.MaxInt)

// logLevel returns the least of the sandbox's remarks that become events.
func (c *SandboxConfig) logLevel() slog.Level {
	if c.QuietLogs {
		return silence
	}
	return logLevels[c.LogLevel]
}

// UnmarshalJSON reads what MarshalJSON wrote. An unknown field is an error: what
// it asks for would not happen.
func (c *SandboxConfig) UnmarshalJSON(data []byte) error {
	type plain SandboxConfig // without this method
	return unmarshalStrict(data, (*plain)(c))
}

// unmarshalStrict is json.Unmarshal, but refuses unknown fields.
func unmarshalStrict(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return fmt.Errorf("more than one value")
	}
	return nil
}
