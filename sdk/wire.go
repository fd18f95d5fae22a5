package sdk

import (
	"encoding/json"
	"fmt"
	"path/filepath"
)

// kept is what a sandbox's directory keeps of a configuration, for those who
// find the sandbox by its name.
type kept struct {
	Config SandboxConfig `json:"config"`
	// Image is what the image of Config said when the sandbox was created; nil
	// without one.
	Image *imageDefaults `json:"image,omitempty"`
}

// wire is what crosses to a sandbox's process. Values are those of the secrets
// of Config, in their order; they are written nowhere.
type wire struct {
	kept
	Values []string `json:"values,omitempty"`
	// Kernel is the path of what is to be booted. The next start may find another.
	Kernel string `json:"boot_kernel,omitempty"`
}

// wireOf returns the configuration as it crosses to the sandbox's process.
func wireOf(cfg *SandboxConfig) (json.RawMessage, error) {
	w := wire{kept: kept{Config: *cfg, Image: cfg.image}, Kernel: cfg.bootKernel}
	for _, s := range cfg.Secrets {
		w.Values = append(w.Values, s.Value)
	}
	return encode(w)
}

// keptOf returns the configuration as the sandbox's directory keeps it.
func keptOf(cfg *SandboxConfig) (json.RawMessage, error) {
	return encode(kept{Config: *cfg, Image: cfg.image})
}

func encode(v any) (json.RawMessage, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, &Error{Kind: ErrInternal, Message: "encode configuration", Cause: err}
	}
	return raw, nil
}

// parseWire reads what wireOf wrote, or what keptOf did: then it is valueless.
func parseWire(raw json.RawMessage) (cfg SandboxConfig, valueless bool, err error) {
	var w wire
	if err := unmarshalStrict(raw, &w); err != nil {
		return SandboxConfig{}, false, err
	}
	if len(w.Values) > 0 && len(w.Values) != len(w.Config.Secrets) {
		return SandboxConfig{}, false, fmt.Errorf("%d values for %d secrets", len(w.Values), len(w.Config.Secrets))
	}
	for i, v := range w.Values {
		w.Config.Secrets[i].Value = v
	}
	w.Config.image, w.Config.bootKernel = w.Image, w.Kernel
	return w.Config, len(w.Values) == 0, nil
}

// clone returns a copy that shares nothing with the caller's: what it changes
// from now on has no effect.
func (c *SandboxConfig) clone() (SandboxConfig, error) {
	raw, err := wireOf(c)
	if err != nil {
		return SandboxConfig{}, err
	}
	out, _, err := parseWire(raw)
	if err != nil {
		return SandboxConfig{}, &Error{Kind: ErrInternal, Message: "copy configuration", Cause: err}
	}
	out.Replace, out.ReplaceWithTimeout = c.Replace, c.ReplaceWithTimeout
	out.RegistryAuth, out.RegistryCACerts = c.RegistryAuth, c.RegistryCACerts
	out.local = c.local
	return out, nil
}

// resolvePaths makes paths of the host absolute: the sandbox's process, and
// whoever starts the sandbox again, work elsewhere.
func (c *SandboxConfig) resolvePaths() {
	resolve := func(path *string) {
		if *path == "" {
			return
		}
		if abs, err := filepath.Abs(*path); err == nil {
			*path = abs
		}
	}
	resolve(&c.BindRootfs)
	c.resolveKernel()
	resolve(&c.RegistryCACertsPath)
	for i := range c.Patches {
		resolve(&c.Patches[i].Src)
	}
	for target, m := range c.Mounts {
		resolve(&m.Bind)
		c.Mounts[target] = m
	}
	if c.Network == nil || c.Network.TLS == nil {
		return
	}
	t := c.Network.TLS
	resolve(&t.CACert)
	resolve(&t.CAKey)
	for i := range t.UpstreamCACerts {
		resolve(&t.UpstreamCACerts[i])
	}
	for i := range t.ScopedUpstreamCACerts {
		resolve(&t.ScopedUpstreamCACerts[i].Path)
	}
}
