package image

import (
	"errors"
	"fmt"
	"strings"
)

// What an [Error] may be matched with, by errors.Is.
var (
	// ErrNotFound: no such image, in the cache or where it was looked for.
	ErrNotFound = errors.New("image not found")
	// ErrInUse: somebody uses the image, or more names than one mean it.
	ErrInUse = errors.New("image in use")
	// ErrPull: the image is not in the cache and could not be brought there.
	ErrPull = errors.New("image pull failed")
	// ErrReference: what should name an image doesn't.
	ErrReference = errors.New("invalid image reference")
	// ErrContent: the image is damaged, malformed, hostile or larger than a
	// bound of [Limits]. An error that matches it often matches ErrPull too.
	ErrContent = errors.New("image refused")
)

// An Error is what the methods of a Store return. It also matches what Err
// does, for example context.Canceled.
type Error struct {
	Op   string // what was tried: "pull"
	Ref  string // the image as it was named, or a path; "" for the cache as a whole
	Kind error  // one of the errors of this package; nil for the host's own failures
	Err  error  // why
	Hint string // what to do next; "" if there is nothing to add
}

// Error returns all of it on one line.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Ref != "" {
		fmt.Fprintf(&b, " %q", e.Ref)
	}
	fmt.Fprintf(&b, ": %v", e.Err)
	if e.Hint != "" {
		b.WriteString("; " + e.Hint)
	}
	return b.String()
}

// Unwrap returns what the error matches.
func (e *Error) Unwrap() []error {
	if e.Kind == nil {
		return []error{e.Err}
	}
	return []error{e.Kind, e.Err}
}

// A contentError says what is wrong with an image. It matches ErrContent.
type contentError struct{ text string }

func (e *contentError) Error() string        { return e.text }
func (e *contentError) Is(target error) bool { return target == ErrContent }

// refused returns a contentError.
func refused(format string, args ...any) error {
	return &contentError{fmt.Sprintf(format, args...)}
}
