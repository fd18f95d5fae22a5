package krun

import (
	"errors"
	"fmt"
	"syscall"
)

// errMissing is what a method of functions returns for a function that the
// library doesn't have: the negative ENOSYS.
const errMissing = -int32(syscall.ENOSYS)

// Error returns what is wrong.
func (e *libraryError) Error() string { return e.what }

// Help returns what would help.
func (e *libraryError) Help() string { return e.fix }

// Is reports whether target is errors.ErrUnsupported.
func (e *libraryError) Is(target error) bool { return target == errors.ErrUnsupported }

// A callError is the failure of one of libkrun's functions. It wraps the number.
type callError struct {
	function string
	errno    syscall.Errno
}

func (e *callError) Error() string { return fmt.Sprintf("%s: %v", e.function, e.errno) }
func (e *callError) Unwrap() error { return e.errno }

// result returns a function's result as an error; nil for 0 and positive numbers.
func result(function string, returned int32) error {
	if returned >= 0 {
		return nil
	}
	return &callError{function, syscall.Errno(-returned)}
}
