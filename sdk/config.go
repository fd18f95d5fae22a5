package sdk

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/sluicenet/sluice/hv"
)

// A SandboxConfig is what the options of CreateSandbox add up to. Its JSON form
// is what a sandbox's process is told; secrets' values, and what only the caller
// can hold (events, logger, files, a hypervisor), are left out.
type SandboxConfig struct {
	// Image is the reference of an OCI image; BindRootfs a directory of the
	// host that becomes the guest's root. With neither a namespace shows the
	// host's files read-only.
	Image      string `json:"image,omitempty"`
	BindRootfs string `json:"bind_rootfs,omitempty"`
	// Backend names the hypervisor; "" or auto is the machine's default.
	Backend   string `json:"backend,omitempty"`
	MemoryMiB uint32 `json:"memory_mib,omitempty"` // 0 is the backend's default
	CPUs      uint8  `json:"cpus,omitempty"`       // 0 is the backend's default
	Hostname  string `json:"hostname,omitempty"`   // "" is the sandbox's name
	Workdir   string `json:"workdir,omitempty"`    // of commands; "" is the root directory
	// Env is the environment of commands, on top of a small default.
	Env map[string]string `json:"env,omitempty"`
	// Entrypoint and Cmd, joined, are the default command.
	Entrypoint []string `json:"entrypoint,omitempty"`
	Cmd        []string `json:"cmd,omitempty"`

	Network      *NetworkConfig    `json:"network,omitempty"`
	Ports        map[uint16]uint16 `json:"ports,omitempty"`         // TCP, host port on 127.0.0.1 to guest port
	PortsUDP     map[uint16]uint16 `json:"ports_udp,omitempty"`     // the same for UDP
	PortBindings []PortBinding     `json:"port_bindings,omitempty"` // with explicit addresses
	Secrets      []SecretEntry     `json:"secrets,omitempty"`

	hypervisor hv.Hypervisor
	events     func(Event)
	logger     *slog.Logger
	stdio      [3]*os.File
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

// command returns the default command.
func (c *SandboxConfig) command() []string {
	return append(append([]string(nil), c.Entrypoint...), c.Cmd...)
}
