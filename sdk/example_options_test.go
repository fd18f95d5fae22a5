package sdk_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	m "github.com/sluicenet/sluice/sdk"
)

// Options are functions on a SandboxConfig, whose JSON form is what a sandbox that is
// kept is started from again. Credentials are not in it.
func ExampleSandboxOption() {
	var cfg m.SandboxConfig
	for _, option := range []m.SandboxOption{
		m.WithBackend("qemu"), m.WithKernel("oci://registry.example/kernel:6.12"),
		m.WithImage("registry.example/team/root:1"), m.WithPullPolicy(m.PullPolicyAlways),
		m.WithRegistryAuth(m.RegistryAuth{Username: "ci", Password: "hunter2"}),
		m.WithRegistryInsecure(), m.WithRegistryCACerts([]byte("PEM")), m.WithRegistryCACertsPath("/etc/registry.pem"),
		m.WithPullProgress(func(p m.PullProgress) { fmt.Println(p) }),
		m.WithMemory(2048), m.WithCPUs(2), m.WithShell("/bin/bash"),
		m.WithLogLevel(m.LogLevelWarn), m.WithQuietLogs(),
		m.WithPorts(map[uint16]uint16{8080: 80}), m.WithPortsUDP(map[uint16]uint16{5353: 53}),
	} {
		option(&cfg)
	}
	text, err := json.MarshalIndent(cfg, "", "  ")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(string(text))
	var again m.SandboxConfig
	fmt.Println(json.Unmarshal(text, &again), again.Image == cfg.Image, json.Unmarshal([]byte(`{"imagge": "x"}`), &again) != nil)
	// Output:
	// {
	//   "image": "registry.example/team/root:1",
	//   "backend": "qemu",
	//   "kernel": "oci://registry.example/kernel:6.12",
	//   "memory_mib": 2048,
	//   "cpus": 2,
	//   "shell": "/bin/bash",
	//   "log_level": "warn",
	//   "quiet_logs": true,
	//   "pull_policy": "always",
	//   "registry_insecure": true,
	//   "registry_ca_certs_path": "/etc/registry.pem",
	//   "ports": {
	//     "8080": 80
	//   },
	//   "ports_udp": {
	//     "5353": 53
	//   }
	// }
	// <nil> true true
}

// A policy that is a file, and what an editor needs to know about such files.
func ExampleLoadNetworkConfig() {
	dir, err := os.MkdirTemp("", "policy")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "policy.yaml")
	if err := os.WriteFile(file, []byte("version: 1\nrules:\n  - {action: allow, destination: api.example.com, port: \"443\"}\n"), 0o600); err != nil {
		fmt.Println(err)
		return
	}
	n, err := m.LoadNetworkConfig(file)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(n.Rules[0])
	fmt.Println(json.Valid(m.NetworkConfigSchema()))
	// Output:
	// allow egress api.example.com 443
	// true
}

// What a limit says in JSON, and in YAML.
func ExampleTokenBucketConfig() {
	var b m.TokenBucketConfig
	err := b.UnmarshalJSON([]byte(`{"size": 1048576, "refill_time": "100ms"}`))
	fmt.Println(b.Size, b.RefillTime, err)
	text, err := b.MarshalJSON()
	fmt.Println(string(text), err)
	// Output:
	// 1048576 100ms <nil>
	// {"size":1048576,"refill_time":"100ms"} <nil>
}
