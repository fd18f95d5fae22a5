package guest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
)

const (
	module     = "github.com/sluicenet/sluice"
	agentName  = "sluice-agent"
	agentMain  = module + "/cmd/" + agentName
	agentCache = "sluice/agents" // below the user's cache directory
)

// Executable returns the path of an agent's executable for a guest of arch, a
// GOARCH: a static Linux program that is process 1 of a machine where it is
// executed as package machine's Role. The file is not to be changed or removed.
//
// The first that there is counts:
//
//  1. the file that the variable SLUICE_AGENT names;
//  2. sluice-agent-linux-ARCH or sluice-agent, beside this executable;
//  3. what was built for this executable before, in the user's cache;
//  4. what "go build" makes of this module's source, put there.
//
// The error names what was tried and how to help.
func Executable(ctx context.Context, arch string) (string, error) {
	if path := os.Getenv("SLUICE_AGENT"); path != "" {
		if err := checkAgent(path, arch); err != nil {
			return "", fmt.Errorf("SLUICE_AGENT: %w", err)
		}
		return path, nil
	}
	own, err := os.Executable()
	if err != nil {
		return "", err
	}
	for _, name := range []string{agentName + "-linux-" + arch, agentName} {
		path := filepath.Join(filepath.Dir(own), name)
		if checkAgent(path, arch) == nil {
			return path, nil
		}
	}
	info, _ := debug.ReadBuildInfo() // nil where the build left it out
	path, err := builtAgent(ctx, own, info, arch)
	if err != nil {
		return "", fmt.Errorf("find the guest's agent for linux/%s (put %s beside %s, or name it by SLUICE_AGENT; `go build %s` makes one): %w",
			arch, agentName, own, agentMain, err)
	}
	return path, nil
}

// machines are the architectures of guests.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// checkAgent reports why the file at path is no static Linux program for arch.
func checkAgent(path, arch string) error {
	want, ok := machines[arch]
	if !ok {
		return fmt.Errorf("agent for %s: %w", arch, errors.ErrUnsupported)
	}
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("read agent %s: %w", path, err)
	}
	defer f.Close()
	if f.Machine != want {
		return fmt.Errorf("agent %s is for %v, not for %v", path, f.Machine, want)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("agent %s is not static", path)
		}
	}
	return nil
}

// builtAgent returns an agent from the cache, or builds it.
func builtAgent(ctx context.Context, own string, info *debug.BuildInfo, arch string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	print, err := fingerprint(own, arch)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, filepath.FromSlash(agentCache))
	path := filepath.Join(dir, print)
	if checkAgent(path, arch) == nil {
		now := time.Now() // in use: not for forgetOld
		return path, os.Chtimes(path, now, now)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	source, err := moduleSource(ctx, info)
	if err != nil {
		return "", err
	}
	if err := buildAgent(ctx, source, path, arch); err != nil {
		return "", err
	}
	forgetOld(dir, time.Now())
	return path, checkAgent(path, arch)
}

// fingerprint names what an agent was built for: this executable's build id,
// which the linker puts at its beginning, and the architecture. So an agent is
// as old as its host.
func fingerprint(own, arch string) (string, error) {
	if runtime.GOOS == "linux" {
		own = "/proc/self/exe" // "go run" has deleted its own
	}
	f, err := os.Open(own)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.CopyN(h, f, 64<<10); err != nil && err != io.EOF { // where cmd/go looks for it too
		return "", err
	}
	return arch + "-" + hex.EncodeToString(h.Sum(nil)[:12]), nil
}

// moduleSource returns the directory of this module's source: where this package
// was compiled from if that is still there, else where the go command has the
// version that is linked here.
func moduleSource(ctx context.Context, info *debug.BuildInfo) (string, error) {
	if _, file, _, ok := runtime.Caller(0); ok && filepath.IsAbs(file) {
		dir := filepath.Dir(filepath.Dir(filepath.Dir(file)))
		if _, err := os.Stat(filepath.Join(dir, "cmd", agentName)); err == nil {
			return dir, nil
		}
	}
	version := ""
	if info != nil {
		for _, m := range append(info.Deps, &info.Main) {
			if m.Path == module {
				version = m.Version
			}
		}
	}
	if version == "" || version == "(devel)" {
		return "", errors.New("the source that this program was built from is not here any more")
	}
	out, err := goCommand(ctx, os.TempDir(), nil, "mod", "download", "-json", module+"@"+version)
	if err != nil {
		return "", err
	}
	var downloaded struct{ Dir string }
	if err := json.Unmarshal(out, &downloaded); err != nil {
		return "", err
	}
	return downloaded.Dir, nil
}

// buildAgent builds the agent to path, which is there only when it is whole.
func buildAgent(ctx context.Context, source, path, arch string) error {
	temporary, err := os.MkdirTemp(filepath.Dir(path), ".build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temporary)
	built := filepath.Join(temporary, agentName)
	env := []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + arch, "GOWORK=off"}
	if _, err := goCommand(ctx, source, env, "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", built, "./cmd/"+agentName); err != nil {
		return err
	}
	return os.Rename(built, path)
}

// goCommand runs the go command and returns what it writes. Its error has what
// it complained of.
func goCommand(ctx context.Context, dir string, env []string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	var out, errs bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, append(os.Environ(), env...), &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("go %s: %w\n%s", args[0], err, strings.TrimSpace(errs.String()))
	}
	return out.Bytes(), nil
}

// agentAge is how long an agent that nobody used stays in the cache.
const agentAge = 30 * 24 * time.Hour

// forgetOld removes what nobody used for a long time. What can't be removed is in
// nobody's way.
func forgetOld(dir string, now time.Time) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		var info fs.FileInfo
		if info, err = e.Info(); err == nil && now.Sub(info.ModTime()) > agentAge {
			_ = os.RemoveAll(filepath.Join(dir, e.Name()))
		}
	}
}
