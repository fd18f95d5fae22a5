package sdk

import (
	"maps"
	"slices"
	"strings"
)

// environment returns a command's environment, sorted by name: a small default,
// under what the image says, under the sandbox's, under the secrets'
// placeholders, under extra.
func (c *SandboxConfig) environment(extra map[string]string) []string {
	env := c.defaultEnvironment()
	maps.Copy(env, c.ownEnvironment())
	for _, s := range c.Secrets {
		env[s.EnvVar] = s.placeholder()
	}
	maps.Copy(env, extra)
	list := make([]string, 0, len(env))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		list = append(list, name+"="+env[name])
	}
	return list
}

// ownEnvironment is what the image says, under what the sandbox's options do.
func (c *SandboxConfig) ownEnvironment() map[string]string {
	env := make(map[string]string)
	if c.image != nil {
		for _, entry := range c.image.Env {
			if name, value, ok := strings.Cut(entry, "="); ok {
				env[name] = value
			}
		}
	}
	maps.Copy(env, c.Env)
	return env
}

// defaultEnvironment is what a command gets without being told. The caller's own
// is never passed on: it holds keys. In a guest that shows the host's files,
// root's home may not be readable, which programs such as git fail on; elsewhere
// the agent knows each user's home.
func (c *SandboxConfig) defaultEnvironment() map[string]string {
	env := map[string]string{"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	if c.BindRootfs == "" && c.Image == "" {
		env["HOME"] = "/tmp"
	}
	return env
}

// command returns the default command. An entrypoint of ours takes the image's
// command away as well, as docker has it: that was made for the image's own.
func (c *SandboxConfig) command() []string {
	entrypoint, cmd := c.Entrypoint, c.Cmd
	if c.image != nil && len(entrypoint) == 0 {
		entrypoint = c.image.Entrypoint
		if len(cmd) == 0 {
			cmd = c.image.Cmd
		}
	}
	return append(slices.Clone(entrypoint), cmd...)
}

// workdir returns the directory that commands start in; "" is the root.
func (c *SandboxConfig) workdir() string {
	if c.Workdir == "" && c.image != nil {
		return c.image.Workdir
	}
	return c.Workdir
}

// user returns who runs commands; "" is root.
func (c *SandboxConfig) user() string {
	if c.User == "" && c.image != nil {
		return c.image.User
	}
	return c.User
}
