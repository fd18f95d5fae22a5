package guest

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// defaultPath is the PATH of a command whose environment has none.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// defaultTerm is the TERM of a command with a terminal, where nobody says: one
// that every database of terminals has.
const defaultTerm = "xterm"

// environment returns the whole environment of c, each name once: c's own
// variables, before the guest's, before what every command of who has.
func environment(c Command, guest map[string]string, who identity) []string {
	env := map[string]string{"PATH": defaultPath, "HOME": who.home}
	if who.name != "" {
		env["USER"], env["LOGNAME"] = who.name, who.name
	}
	if c.TTY != nil {
		env["TERM"] = cmp.Or(c.TTY.Term, defaultTerm)
	}
	maps.Copy(env, guest)
	for _, e := range c.Env {
		if name, value, ok := strings.Cut(e, "="); ok && name != "" {
			env[name] = value
		}
	}
	all := make([]string, 0, len(env))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		all = append(all, name+"="+env[name])
	}
	return all
}

// variable returns the variable of that name, the last one, as it counts for the
// C library's setenv; without one it returns otherwise.
func variable(env []string, name, otherwise string) string {
	for _, e := range slices.Backward(env) {
		if value, ok := strings.CutPrefix(e, name+"="); ok {
			return value
		}
	}
	return otherwise
}
