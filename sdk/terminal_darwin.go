package sdk

import (
	"errors"

	"golang.org/x/sys/unix"
)

// See terminal.go. poll(2) doesn't know terminals here, so it is select(2), which
// has room for descriptors up to 1023.
func awaitEither(input, stop int) (stopped bool, err error) {
	if max(input, stop) >= unix.FD_SETSIZE {
		return false, errors.New("too many open files for select")
	}
	var set unix.FdSet
	set.Set(input)
	set.Set(stop)
	_, err = unix.Select(max(input, stop)+1, &set, nil, nil, nil)
	return err == nil && set.IsSet(stop), err
}
