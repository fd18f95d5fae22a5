package netlab

import (
	"bufio"
	"errors"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// Run starts a program on the host and waits until it has printed a line with
// ready in it, "" for not waiting. It is killed with the host.
func (h *Host) Run(ready, name string, args ...string) {
	h.t.Helper()
	Tool(h.t, name)
	cmd := h.Command(h.t.Context(), name, args...)
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		cmd.Stderr = cmd.Stdout
		err = cmd.Start()
	}
	if err != nil {
		h.t.Fatal(err)
	}
	h.onClose(func() error {
		cmd.Process.Kill() // it may have ended
		err := cmd.Wait()
		if exit := new(exec.ExitError); errors.As(err, &exit) {
			return nil
		}
		return err
	})
	lines := bufio.NewScanner(stdout)
	for ready != "" && lines.Scan() {
		if strings.Contains(lines.Text(), ready) {
			ready = ""
		}
	}
	if ready != "" {
		h.t.Fatalf("%s on %s ended before it was ready", name, h.Name)
	}
	h.wg.Go(func() {
		for lines.Scan() { // the program must not wait for a reader
		}
	})
}

// IPerf3 starts an iperf3 server. It serves one client at a time.
func (h *Host) IPerf3(port uint16) {
	h.t.Helper()
	h.Run("Server listening", "iperf3", "--server", "--forceflush", "--port", strconv.Itoa(int(port)))
}

// Git serves, over HTTP as git's clients expect it, a repository with one commit
// that holds the files, by name. Clone it from the host's "/repo.git".
func (h *Host) Git(port uint16, files map[string]string) {
	h.t.Helper()
	h.HTTP(port, h.GitHandler(files))
}

// GitHandler returns the handler of Git, for a server of another kind.
func (h *Host) GitHandler(files map[string]string) http.Handler {
	h.t.Helper()
	git := Tool(h.t, "git")
	root := h.t.TempDir()
	work := filepath.Join(root, "work")
	for name, content := range files {
		if err := writeFile(filepath.Join(work, name), content); err != nil {
			h.t.Fatal(err)
		}
	}
	for _, args := range []string{
		"init --quiet --initial-branch main work",
		"-C work add .",
		"-C work -c user.name=netlab -c user.email=netlab@web.example commit --quiet --message files",
		"clone --quiet --bare work repo.git",
	} {
		cmd := exec.Command(git, strings.Fields(args)...)
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			h.t.Fatalf("git %s: %v %s", args, err, out)
		}
	}
	return gitBackend(git, root)
}

// gitBackend returns git's own HTTP server, read-only.
func gitBackend(git, root string) http.Handler {
	return &cgi.Handler{
		Path:   git,
		Args:   []string{"http-backend"},
		Stderr: os.Stderr,
		Env: []string{
			"GIT_PROJECT_ROOT=" + root,
			"GIT_HTTP_EXPORT_ALL=1",
			"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*",
		},
	}
}

// writeFile writes a file and makes the directories that it is in.
func writeFile(path, content string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(content), 0o644)
}
