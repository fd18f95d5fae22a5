package confine

import (
	"errors"
	"fmt"
	"os"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// Rights to files, by what they are for. Executing and making devices are nobody's.
const (
	readFiles  landlock.AccessFSSet = ll.AccessFSReadFile
	readDirs   landlock.AccessFSSet = ll.AccessFSReadDir
	writeFiles landlock.AccessFSSet = ll.AccessFSWriteFile
	changeDirs landlock.AccessFSSet = ll.AccessFSRemoveDir | ll.AccessFSRemoveFile | ll.AccessFSMakeDir | ll.AccessFSMakeReg |
		ll.AccessFSMakeSock | ll.AccessFSMakeFifo | ll.AccessFSMakeSym
	nobodys landlock.AccessFSSet = ll.AccessFSExecute | ll.AccessFSMakeChar | ll.AccessFSMakeBlock
)

// abstractSockets is the scope in which other processes' abstract Unix sockets don't
// exist. The scope of signals isn't used: it would hide the children, which started
// before.
const abstractSockets landlock.ScopedSet = 1

// landlockABI returns the version of Landlock's interface. The error wraps
// errors.ErrUnsupported.
func landlockABI() (int, error) {
	abi, err := ll.LandlockGetABIVersion()
	switch {
	case errors.Is(err, unix.ENOSYS):
		return 0, unsupported("Landlock isn't in the kernel")
	case errors.Is(err, unix.EOPNOTSUPP):
		return 0, unsupported("Landlock is switched off at boot")
	case err != nil:
		return 0, unsupported("Landlock isn't to be had: " + err.Error())
	}
	return abi, nil
}

// describeABI returns what a version can and can't do.
func describeABI(abi int) string {
	text := fmt.Sprintf("ABI %d", abi)
	for _, lack := range []struct {
		since int
		text  string
	}{{2, "no renames between directories"}, {3, "truncating isn't restricted"}, {5, "requests to devices aren't"}, {6, "abstract sockets aren't"}} {
		if abi < lack.since {
			text += ", " + lack.text
		}
	}
	return text
}

// restrictFiles lets all threads open from now on what the rules name.
func restrictFiles(rules Rules) (string, error) {
	abi, err := landlockABI()
	if err != nil {
		return "", err
	}
	read, write := readFiles|readDirs, writeFiles|changeDirs
	handled := read | write | nobodys
	// Rights that came later; where the kernel doesn't know them nothing can be done
	// about them.
	if abi >= 2 {
		write |= ll.AccessFSRefer
		handled |= ll.AccessFSRefer
	}
	if abi >= 3 {
		write |= ll.AccessFSTruncate
		handled |= ll.AccessFSTruncate
	}
	if abi >= 5 {
		handled |= ll.AccessFSIoctlDev // the guest's card is open already
	}
	sets := []any{handled}
	if abi >= 6 {
		sets = append(sets, abstractSockets)
	}
	config, err := landlock.NewConfig(sets...)
	if err != nil {
		return "", err
	}
	var list []landlock.Rule
	for _, part := range []struct {
		paths []string
		may   landlock.AccessFSSet
	}{
		{rules.ReadOnly, read},
		{rules.ReadWrite, read | write},
		{rules.RemoveEmpty, ll.AccessFSRemoveDir},
		{[]string{os.DevNull}, read | write},
	} {
		for _, path := range part.paths {
			info, err := os.Stat(path)
			switch {
			case errors.Is(err, os.ErrNotExist):
				continue
			case err != nil:
				return "", err
			}
			may := part.may
			if !info.IsDir() {
				may &= readFiles | writeFiles | ll.AccessFSTruncate
			}
			list = append(list, landlock.PathAccess(may, path).IgnoreIfMissing())
		}
	}
	return describeABI(abi), config.Restrict(list...)
}
