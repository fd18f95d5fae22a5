package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sluicenet/sluice/internal/control"
)

// A Found is what the directory of a sandbox says about it: for those who look
// for its socket, or find it when its process is gone.
type Found struct {
	Name     string            `json:"name"`
	Status   string            `json:"status"` // control.StatusRunning and so on
	PID      int               `json:"pid"`    // of the process that runs it, or ran it last
	Socket   string            `json:"socket"` // of its API
	Backend  string            `json:"backend,omitempty"`
	Image    string            `json:"image,omitempty"` // digest
	Created  time.Time         `json:"created"`
	Updated  time.Time         `json:"updated"`            // when any of this changed last
	Keep     bool              `json:"keep,omitempty"`     // the directory stays when the sandbox has ended
	Detached bool              `json:"detached,omitempty"` // it outlives its creator
	Labels   map[string]string `json:"labels,omitempty"`
	Config   json.RawMessage   `json:"config,omitempty"` // Config.ConfigJSON
	Ended    *control.Ended    `json:"ended,omitempty"`  // how it ended last; nil while it runs, or if it crashed
}

// Running reports whether the sandbox's process lives.
func (f *Found) Running() bool {
	return f.Status == control.StatusRunning || f.Status == control.StatusDraining
}

// settle corrects the status of a sandbox whose process is known to be gone, and
// reports whether it had to.
func (f *Found) settle() bool {
	if !f.Running() {
		return false
	}
	f.Status = control.StatusCrashed
	return true
}

func (d Dirs) dir(name string) string { return filepath.Join(d.sandboxes(), name) }

// readState reads what the directory of a sandbox says.
func readState(dir string) (Found, error) {
	var st Found
	text, err := os.ReadFile(filepath.Join(dir, stateName))
	if err != nil {
		return st, err
	}
	if err := json.Unmarshal(text, &st); err != nil {
		return st, fmt.Errorf("read state of %q: %w", filepath.Base(dir), err)
	}
	return st, nil
}

// Find returns the sandbox of a name, running or kept. Its error is a
// *[control.Failure] of kind control.KindNotFound if there is none.
func Find(d Dirs, name string) (Found, error) {
	none := &control.Failure{Kind: control.KindNotFound, Message: fmt.Sprintf("there is no sandbox named %q", name)}
	if name == "" || strings.ContainsAny(name, `/\`) || !filepath.IsLocal(name) {
		return Found{}, none
	}
	// The lock first: a sandbox that ends meanwhile has written how.
	lock := filepath.Join(d.dir(name), lockName)
	held, err := heldAt(lock)
	if err != nil {
		return Found{}, ioFailure(err)
	}
	st, err := readState(d.dir(name))
	if err == nil && !held && st.Running() { // unless it began in between
		if held, err = heldAt(lock); err != nil {
			return Found{}, ioFailure(err)
		}
	}
	switch {
	case errors.Is(err, os.ErrNotExist):
		return Found{}, none
	case err != nil:
		return Found{}, ioFailure(err)
	case held:
		return st, nil
	case !st.Keep:
		return Found{}, none // it died; its directory is only not swept yet
	}
	st.settle()
	return st, nil
}

// List returns all sandboxes, running or kept, by name.
func List(d Dirs) ([]Found, error) {
	entries, err := os.ReadDir(d.sandboxes())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, ioFailure(err)
	}
	var all []Found
	for _, e := range entries {
		st, err := Find(d, e.Name())
		if err == nil {
			all = append(all, st)
		}
		// What can't be read is no sandbox, or becomes or ceases to be one now.
	}
	slices.SortFunc(all, func(a, b Found) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// Remove removes all that is left of a sandbox that has ended. Its error is a
// *[control.Failure] of kind control.KindNotFound if there is none, and
// control.KindStillRunning if it has not ended.
func Remove(d Dirs, name string) error {
	st, err := Find(d, name)
	if err != nil {
		return err
	}
	c, err := d.reclaim(name)
	switch {
	case err != nil:
		return ioFailure(err)
	case c == nil:
		return &control.Failure{Kind: control.KindStillRunning, Message: fmt.Sprintf("the sandbox %q is running", st.Name), Hint: "stop it first"}
	}
	if err := c.remove(); err != nil {
		return ioFailure(err)
	}
	return nil
}

// replaceGrace is how long a sandbox that is to be replaced may take to be gone,
// beyond the time that its commands are given.
const replaceGrace = answerTime + endTime

// Replace ends the sandbox of a name, if there is one, and removes what is left
// of it. Its commands get timeout to end. Once ctx has ended it does nothing more,
// and returns ctx's error.
func Replace(ctx context.Context, d Dirs, name string, timeout time.Duration) error {
	patience, cancel := context.WithTimeout(ctx, max(timeout, 0)+replaceGrace)
	defer cancel()
	for ctx.Err() == nil {
		st, err := Find(d, name)
		if err == nil && st.Running() {
			err = stopOther(patience, st, timeout)
		} else if err == nil {
			err = Remove(d, name)
		}
		switch kind := failureKind(err); {
		case kind == control.KindNotFound:
			return nil
		case err != nil && kind != control.KindStillRunning:
			return err
		}
		if err == nil && !st.Running() {
			return nil
		}
		select { // its process may still hold the name for a moment
		case <-time.After(10 * time.Millisecond):
		case <-patience.Done():
			if ctx.Err() == nil {
				return &control.Failure{Kind: control.KindStillRunning, Message: fmt.Sprintf("the sandbox %q doesn't end", name), Hint: fmt.Sprintf("end process %d", st.PID)}
			}
		}
	}
	return control.Cause(ctx)
}

// stopOther stops a sandbox through its API. One that doesn't answer is taken for
// ending, or just starting.
func stopOther(ctx context.Context, st Found, timeout time.Duration) error {
	c := control.NewClient(st.Socket)
	defer c.Close()
	if _, err := c.Stop(ctx, max(timeout, 0)); err != nil && !errors.Is(err, control.ErrGone) && ctx.Err() == nil {
		return err
	}
	return nil
}

// failureKind returns the kind of err's failure, "" if it is none.
func failureKind(err error) string {
	var f *control.Failure
	if errors.As(err, &f) {
		return f.Kind
	}
	return ""
}
