//go:build !unix

package main

import (
	"errors"
	"os"
)

// An unreadWatch is never made here.
type unreadWatch struct{}

// See unread.go.
func newUnreadWatch(*os.File) (*unreadWatch, error) { return nil, errors.ErrUnsupported }
func (*unreadWatch) wait() bool                     { return false }
func (*unreadWatch) stop()                          {}
func (*unreadWatch) close()                         {}
