package image

import (
	"bufio"
	"fmt"
	"os"
)

// ownRanges returns the ids of this process's user namespace, as the kernel
// lists them for "uid" or "gid". See DefaultOwners.
func ownRanges(kind string) []IDRange {
	f, err := os.Open("/proc/self/" + kind + "_map")
	if err != nil {
		return []IDRange{everyID} // a kernel without user namespaces, or no /proc
	}
	defer f.Close()
	var ranges []IDRange
	for s := bufio.NewScanner(f); s.Scan(); {
		var inside, outside, size uint32
		if _, err := fmt.Sscan(s.Text(), &inside, &outside, &size); err == nil {
			ranges = append(ranges, IDRange{inside, inside, size})
		}
	}
	return ranges
}
