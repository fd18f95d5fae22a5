package sdk

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sluicenet/sluice/internal/control"
)

// An ErrorKind says what sort of failure an [Error] is. An ErrorKind is itself
// an error, so that errors.Is(err, ErrSandboxNotFound) works as [IsKind] does.
type ErrorKind int

// The kinds of errors. Their numbers may change; their names are stable.
const (
	ErrUnknown              ErrorKind = iota
	ErrSandboxNotFound                // no sandbox has that name
	ErrSandboxNotRunning              // the sandbox has ended, or never started
	ErrSandboxAlreadyExists           // a running sandbox has that name
	ErrSandboxStillRunning            // the operation needs a stopped sandbox
	ErrExecTimeout                    // a command ran into its time limit
	ErrExecFailed                     // a command could not be started
	ErrFilesystem                     // an operation on the guest's files failed
	ErrPathNotFound                   // a path of guest or host does not exist
	ErrImageNotFound                  // no such image
	ErrImageInUse                     // the image is used by a sandbox
	ErrImagePullFailed                // the image could not be fetched
	ErrPatchFailed                    // a patch could not be applied to the root
	ErrNetworkPolicy                  // the policy as a whole is unsound
	ErrSecretViolation                // a secret was on its way to a foreign host
	ErrTLS                            // certificates or keys are unusable
	ErrIO                             // reading, writing or starting failed on the host
	ErrInvalidConfig                  // the configuration of a sandbox is invalid
	ErrInvalidArgument                // a value is outside its domain
	ErrInvalidHandle                  // the handle is closed
	ErrCancelled                      // the context ended first
	ErrMetricsDisabled                // metrics are switched off
	ErrMetricsUnavailable             // metrics can't be had here
	ErrUnsupportedOperation           // this version, backend or host can't do it
	ErrInternal                       // a fault of sluice itself
	ErrNoDefaultCommand               // neither WithCmd nor WithEntrypoint was given
)

// kindNames are the kinds as they appear in texts and on the control API.
var kindNames = [...]string{
	ErrUnknown:              "unknown",
	ErrSandboxNotFound:      "sandbox not found",
	ErrSandboxNotRunning:    "sandbox not running",
	ErrSandboxAlreadyExists: "sandbox already exists",
	ErrSandboxStillRunning:  "sandbox still running",
	ErrExecTimeout:          "exec timeout",
	ErrExecFailed:           "exec failed",
	ErrFilesystem:           "filesystem",
	ErrPathNotFound:         "path not found",
	ErrImageNotFound:        "image not found",
	ErrImageInUse:           "image in use",
	ErrImagePullFailed:      "image pull failed",
	ErrPatchFailed:          "patch failed",
	ErrNetworkPolicy:        "network policy",
	ErrSecretViolation:      "secret violation",
	ErrTLS:                  "tls",
	ErrIO:                   "i/o",
	ErrInvalidConfig:        "invalid config",
	ErrInvalidArgument:      "invalid argument",
	ErrInvalidHandle:        "invalid handle",
	ErrCancelled:            "cancelled",
	ErrMetricsDisabled:      "metrics disabled",
	ErrMetricsUnavailable:   "metrics unavailable",
	ErrUnsupportedOperation: "unsupported operation",
	ErrInternal:             "internal",
	ErrNoDefaultCommand:     "no default command",
}

// String returns the kind's name, for example "invalid argument".
func (k ErrorKind) String() string {
	if k < 0 || int(k) >= len(kindNames) {
		return fmt.Sprintf("ErrorKind(%d)", int(k))
	}
	return kindNames[k]
}

// Error returns the kind's name.
func (k ErrorKind) Error() string { return k.String() }

// Is reports whether target is [errors.ErrUnsupported] and k the kind that
// means it.
func (k ErrorKind) Is(target error) bool {
	return k == ErrUnsupportedOperation && target == errors.ErrUnsupported
}

// kindNamed returns the kind with the given name, ErrUnknown if none has it: a
// sandbox's process may be of a newer version.
func kindNamed(name string) ErrorKind {
	for k, n := range kindNames {
		if n == name {
			return ErrorKind(k)
		}
	}
	return ErrUnknown
}

// An Error is what the functions of this package return. Use [errors.As] for
// its parts, [IsKind] to branch.
type Error struct {
	Kind    ErrorKind
	Op      string // what was tried: create sandbox "worker"; "" within another Error
	Field   string // of a configuration, the path of what is wrong: Rules[2].Ports[0]; "" elsewhere
	Value   string // what stands there; "" where no single value is at fault
	Message string // what is wrong
	Hint    string // what to do next; "" if there is nothing to add
	Cause   error  // what lies beneath; nil if nothing does

	// problems are the parts of a configuration's error, in the order of the
	// fields; Message lists them.
	problems []*Error
}

// Error returns everything on one line, or one line per problem of a
// configuration that has several.
func (e *Error) Error() string {
	var b strings.Builder
	sep := ""
	value := ""
	if e.Value != "" {
		value = strconv.Quote(e.Value)
	}
	for _, part := range []string{e.Op, e.Field, value, e.text()} {
		if part != "" {
			b.WriteString(sep + part)
			sep = ": "
		}
	}
	if b.Len() == 0 {
		b.WriteString(e.Kind.String())
	}
	if e.Hint != "" {
		b.WriteString("; " + e.Hint)
	}
	return b.String()
}

// text returns message and cause.
func (e *Error) text() string {
	switch {
	case e.Cause == nil:
		return e.Message
	case e.Message == "":
		return e.Cause.Error()
	}
	return e.Message + ": " + e.Cause.Error()
}

// Problems returns the parts of an error about a configuration, in the order of its
// fields; none of another error.
func (e *Error) Problems() []*Error {
	if len(e.problems) == 0 && e.Field != "" {
		return []*Error{e}
	}
	return slices.Clone(e.problems)
}

// Unwrap returns the kind, the cause and the problems that the error is made of.
func (e *Error) Unwrap() []error {
	errs := []error{e.Kind}
	if e.Cause != nil {
		errs = append(errs, e.Cause)
	}
	for _, p := range e.problems {
		errs = append(errs, p)
	}
	return errs
}

// IsKind reports whether err is, or contains, an [Error] of the given kind. An
// error about a configuration contains one for each problem.
func IsKind(err error, kind ErrorKind) bool { return errors.Is(err, kind) }

// withOp returns err, of whatever sort, as an Error about op.
func withOp(op string, err error) error {
	var e *Error
	if errors.As(err, &e) {
		about := *e
		about.Op = op
		return &about
	}
	about := &Error{Kind: ErrIO, Op: op, Cause: err}
	var f *control.Failure
	switch {
	case errors.As(err, &f):
		about.Kind, about.Message, about.Hint, about.Cause = kindNamed(f.Kind), f.Message, f.Hint, nil
		if about.Kind == ErrExecFailed {
			about.Message, about.Cause = "", &ExecFailure{Code: f.Code, Message: f.Message}
		}
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		about.Kind = ErrCancelled
	case errors.Is(err, control.ErrGone):
		about.Kind, about.Message, about.Cause = ErrSandboxNotRunning, "the sandbox has ended", nil
	}
	return about
}
