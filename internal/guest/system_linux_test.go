package guest

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestStartError checks what is said of a program that the kernel didn't start.
func TestStartError(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		c    Command
		err  error
		code int
		want string
	}{
		{Command{}, unix.EACCES, CodeNotExecutable, "/bin/x: permission denied"},
		{Command{Dir: "/root"}, unix.EACCES, CodeNotExecutable, "/bin/x: permission denied, to it or to /root,"},
		{Command{Dir: "/root"}, unix.ENOEXEC, CodeNotExecutable, "/bin/x: exec format error"},
		{Command{}, unix.ENOENT, CodeNotFound, "/bin/x: its interpreter"},
		{Command{User: "app"}, unix.EPERM, CodeRefused, `become user "app"`},
		{Command{User: "app"}, unix.EINVAL, CodeRefused, `become user "app"`},
		{Command{}, unix.EPERM, CodeNotExecutable, "/bin/x: operation not permitted"},
		{Command{}, unix.EAGAIN, CodeRefused, "/bin/x: resource temporarily unavailable"},
	} {
		got := startError("/bin/x", tt.c, tt.err)
		if got.Code != tt.code || !strings.HasPrefix(got.Message, tt.want) {
			t.Errorf("%+v, %v: %d %q, want %d %q", tt.c, tt.err, got.Code, got.Message, tt.code, tt.want)
		}
	}
}
