package netlab

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// ip runs iproute2's commands, one per line, in a namespace; "" is here. The
// family, "-4" or "-6", is what rules go by; "" takes it from each address.
func ip(namespace, family string, commands ...string) error {
	var args []string
	if namespace != "" {
		args = append(args, "-n", namespace)
	}
	if family != "" {
		args = append(args, family)
	}
	script := strings.Join(commands, "\n") + "\n"
	cmd := exec.Command("ip", append(args, "-batch", "-")...)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("configure namespace %q: %w: %s\n%s", namespace, err, strings.TrimSpace(string(out)), script)
	}
	return nil
}

// namespacePath returns where iproute2 keeps a namespace by its name.
func namespacePath(namespace string) string {
	return filepath.Join("/run/netns", namespace)
}
