//go:build !linux && !darwin

package link

import "os"

// adopt; see adopt_unix.go. Here a file is used as it is.
func adopt(f *os.File) (*os.File, error) { return f, nil }
