package namespace

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
)

// A mount is a line of /proc/self/mountinfo.
type mount struct {
	point  string // path below the process's root
	fstype string
}

// readMounts returns the mounts of this process's namespace.
func readMounts() ([]mount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseMounts(f)
}

// parseMounts parses mountinfo, see proc_pid_mountinfo(5):
//
//	36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw
//	(1)(2)(3)  (4)   (5)   (6)        (7)      (8)(9)
func parseMounts(r io.Reader) ([]mount, error) {
	var mounts []mount
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20) // options of an overlay may be a page long, escaped
	for s.Scan() {
		left, right, ok := strings.Cut(s.Text(), " - ")
		before, after := strings.Fields(left), strings.Fields(right)
		if !ok || len(before) < 6 || len(after) < 1 {
			return nil, fmt.Errorf("parse mountinfo: line %q", s.Text())
		}
		mounts = append(mounts, mount{point: unescape(before[4]), fstype: after[0]})
	}
	return mounts, s.Err()
}

// unescape undoes the kernel's octal escapes: \040 is a space.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && isOctal(s[i+1:i+4]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// isOctal reports whether s is three octal digits of a byte.
func isOctal(s string) bool {
	return '0' <= s[0] && s[0] <= '3' && '0' <= s[1] && s[1] <= '7' && '0' <= s[2] && s[2] <= '7'
}
