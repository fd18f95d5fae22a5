package confine

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"runtime"
	"runtime/debug"

	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/internal/seccomp"
)

// process confines step by step. A step returns its detail; its error wraps
// errors.ErrUnsupported where the kernel lacks what it needs.
func process(rules Rules) (Report, error) {
	var report Report
	for _, step := range []struct {
		name string
		do   func() (string, error)
	}{
		{stepDumpable, func() (string, error) { return "", unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) }},
		{stepCore, func() (string, error) { return "", unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}) }},
		{stepMemory, func() (string, error) { return limitMemory(rules.MemoryBytes) }},
		{stepPrivileges, forbidPrivileges},
		{stepLandlock, func() (string, error) { return restrictFiles(rules) }},
		{stepSeccomp, func() (string, error) { return "", processFilter().Install() }},
	} {
		detail, err := step.do()
		switch {
		case errors.Is(err, errors.ErrUnsupported):
			report = append(report, Step{Name: step.name, Detail: err.Error()})
		case err != nil:
			return report, fmt.Errorf("confine process: %s: %w", step.name, err)
		default:
			report = append(report, Step{Name: step.name, Done: true, Detail: detail})
		}
	}
	return report, nil
}

// probe asks the kernel without changing anything.
func probe() Report {
	landlock := Step{Name: stepLandlock, Done: true}
	if abi, err := landlockABI(); err != nil {
		landlock.Done, landlock.Detail = false, err.Error()
	} else {
		landlock.Detail = describeABI(abi)
	}
	filter := Step{Name: stepSeccomp, Done: true}
	if err := seccomp.Supported(); err != nil {
		filter.Done, filter.Detail = false, err.Error()
	}
	return Report{
		{Name: stepDumpable, Done: true}, {Name: stepCore, Done: true}, {Name: stepMemory, Done: true}, {Name: stepPrivileges, Done: true},
		landlock, filter,
	}
}

// limitMemory bounds the process's data: the private memory that it may write to.
// The address space would be the wrong measure, since Go's runtime reserves much
// more of it than it uses.
func limitMemory(bytes uint64) (string, error) {
	if bytes == 0 {
		return "none asked for", nil
	}
	debug.SetMemoryLimit(int64(min(bytes/4*3, math.MaxInt64)))
	if err := unix.Setrlimit(unix.RLIMIT_DATA, &unix.Rlimit{Cur: bytes, Max: bytes}); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d MiB", bytes>>20), nil
}

// forbidPrivileges sets the flag of all threads. The kernel has no call for that but
// as a part of Landlock's and seccomp's, which may be missing.
func forbidPrivileges() (string, error) {
	return "", ll.AllThreadsPrctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
}

// system returns existing and usual paths alike: what doesn't exist is skipped. The
// tables are named by directories because they are replaced by renames; of a
// table that is a link, the directory that it points into now counts too.
func system() []string {
	paths := []string{
		"/etc", "/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager", "/run/connman",
		"/usr/share/ca-certificates", "/usr/local/share/ca-certificates", "/usr/share/pki", "/usr/share/zoneinfo", "/usr/lib/locale",
		"/proc", "/sys/fs/cgroup", "/sys/kernel/mm", "/sys/devices/system/cpu", "/dev/zero", "/dev/random", "/dev/urandom",
	}
	for _, link := range []string{"/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/localtime", "/etc/ssl/certs", "/etc/ssl/certs/ca-certificates.crt"} {
		if target, err := filepath.EvalSymlinks(link); err == nil && target != link {
			paths = append(paths, filepath.Dir(target))
		}
	}
	return paths
}

// unsupported returns the error for what this kernel or platform lacks.
func unsupported(what string) error {
	return fmt.Errorf("%s on linux/%s: %w", what, runtime.GOARCH, errors.ErrUnsupported)
}
