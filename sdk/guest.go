package sdk

import (
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// checkName reports a sandbox's name that can't be a directory, a host name's
// label or a word on a command line.
func (c *checker) checkName(name string) {
	ok := len(name) >= 1 && len(name) <= 63 && isAlnum(name[0])
	for i := 0; i < len(name); i++ {
		ok = ok && (isAlnum(name[i]) || strings.IndexByte("_.-", name[i]) >= 0)
	}
	if !ok {
		c.fail(ErrInvalidConfig, "name", name, "no name for a sandbox", "write 1 to 63 letters, digits and _ . -, a letter or digit first")
	}
}

func isAlnum(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9'
}

// checkGuest reports what is wrong with the guest beside its network.
func (c *checker) checkGuest(cfg *SandboxConfig) {
	if cfg.Image != "" && cfg.BindRootfs != "" {
		c.fail(ErrInvalidConfig, "WithBindRootfs", cfg.BindRootfs, "an image is the root already", "drop WithImage or WithBindRootfs")
	}
	if root := cfg.BindRootfs; root != "" {
		info, err := os.Stat(root)
		switch {
		case err != nil:
			c.fail(ErrPathNotFound, "WithBindRootfs", root, "can't be looked at", "give a directory that this user can read")
		case !info.IsDir():
			c.fail(ErrInvalidConfig, "WithBindRootfs", root, "is not a directory", "give the root directory itself")
		}
	}
	if cfg.Hostname != "" && !isHostname(cfg.Hostname) {
		c.fail(ErrInvalidConfig, "WithHostname", cfg.Hostname, "no host name", "write letters, digits and hyphens, at most 63 per label")
	}
	if cfg.User != "" && !isUser(cfg.User) {
		c.fail(ErrInvalidConfig, "WithUser", cfg.User, "no user", "write name, uid, name:group or uid:gid")
	}
	if !isText(cfg.Shell) {
		c.fail(ErrInvalidConfig, "WithShell", cfg.Shell, "holds a NUL or is not UTF-8", "write the path of a shell")
	}
	for _, key := range slices.Sorted(maps.Keys(cfg.Labels)) {
		if key == "" || !isText(key) || !isText(cfg.Labels[key]) {
			c.fail(ErrInvalidConfig, "WithLabels["+strconv.Quote(key)+"]", "", "is empty, holds a NUL or is not UTF-8", "write words")
		}
	}
	c.checkWorkdir("WithWorkdir", cfg.Workdir)
	c.checkEnv("WithEnv", cfg.Env)
	c.checkArguments(ErrInvalidConfig, "WithEntrypoint and WithCmd: ", append(slices.Clone(cfg.Entrypoint), cfg.Cmd...))
	c.checkTotal(ErrInvalidConfig, "WithEntrypoint, WithCmd and WithEnv", cfg.command(), cfg.environment(nil))
}

// Linux's bounds of what a program is started with, see execve(2): of one string,
// its end included, and of all of them, which is a quarter of the usual stack less
// a page for what the agent and the kernel add.
const (
	maxString = 128 << 10
	maxTotal  = 2<<20 - 4<<10
)

// checkArguments reports arguments that no program can get. where stands before
// their numbers.
func (c *checker) checkArguments(kind ErrorKind, where string, argv []string) {
	for i, arg := range argv {
		at := where + "argument " + decimal(i)
		if !isText(arg) || i == 0 && arg == "" {
			c.fail(kind, at, arg, "is an empty program, holds a NUL or is not UTF-8", "")
		}
		c.checkString(kind, at, arg)
	}
}

// checkString reports a string of a command's that Linux takes none of the size of.
func (c *checker) checkString(kind ErrorKind, at, s string) {
	if len(s) >= maxString {
		c.fail(kind, at, "", fmt.Sprintf("is %d bytes long, and Linux starts no program with a string over %d", len(s), maxString-1), "put it into a file, or into the standard input")
	}
}

// checkTotal reports strings that are too much together.
func (c *checker) checkTotal(kind ErrorKind, what string, lists ...[]string) {
	total := 0
	for _, s := range slices.Concat(lists...) {
		total += len(s) + 1 + 8 // its end, and the pointer to it
	}
	if total > maxTotal {
		c.fail(kind, what, "", fmt.Sprintf("are %d bytes together, and Linux starts no program with more than %d", total, maxTotal), "put some into a file, or into the standard input")
	}
}

// checkWorkdir reports a directory to start in that commands can't have.
func (c *checker) checkWorkdir(at, dir string) {
	if dir != "" && (!path.IsAbs(dir) || !isText(dir)) {
		c.fail(ErrInvalidConfig, at, dir, "not an absolute path", "write it from the guest's root on")
	}
}

// checkEnv reports an environment that commands can't have.
func (c *checker) checkEnv(at string, env map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(env)) {
		at := at + "[" + strconv.Quote(name) + "]"
		c.checkEnvName(at, name)
		if !isText(env[name]) {
			c.fail(ErrInvalidConfig, at, "", "the value holds a NUL or is not UTF-8", "encode it")
		}
		c.checkString(ErrInvalidConfig, at, name+"="+env[name])
	}
}

// checkLife reports what is wrong with how long the sandbox is to live, and how
// much it is to say.
func (c *checker) checkLife(cfg *SandboxConfig) {
	for _, f := range []struct {
		path string
		d    time.Duration
	}{
		{"WithMaxDuration", cfg.MaxDuration},
		{"WithIdleTimeout", cfg.IdleTimeout},
	} {
		if f.d < 0 {
			c.fail(ErrInvalidArgument, f.path, f.d.String(), "is negative", "write 0 for no end")
		}
	}
	if _, ok := logLevels[cfg.LogLevel]; !ok {
		c.fail(ErrInvalidArgument, "WithLogLevel", string(cfg.LogLevel), "no such level", "write trace, debug, info, warn or error")
	}
	if cfg.Detached && cfg.hypervisor != nil {
		c.fail(ErrInvalidConfig, "WithDetached", "", "with WithHypervisor the sandbox runs in this process, and ends with it", "drop one of them")
	}
}

// isUser reports whether s has the form of a user, with a group or without.
func isUser(s string) bool {
	user, group, grouped := strings.Cut(s, ":")
	for _, part := range []string{user, group} {
		if strings.ContainsAny(part, ":/ \t\r\n") || !isText(part) {
			return false
		}
	}
	return user != "" && (group != "" || !grouped)
}

// checkEnvName reports a name that no environment can hold.
func (c *checker) checkEnvName(at, name string) {
	if name == "" || strings.ContainsRune(name, '=') || !isText(name) {
		c.fail(ErrInvalidConfig, at, name, "no name of a variable", "write one without =")
	}
}

// isText reports whether s can cross to the guest as it is.
func isText(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

// isHostname reports whether s is labels of letters, digits and hyphens (RFC
// 1123, section 2.1), at most 64 bytes, which is Linux's limit.
func isHostname(s string) bool {
	if len(s) > 64 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			if !isAlnum(label[i]) && label[i] != '-' {
				return false
			}
		}
	}
	return true
}
