package guest

import (
	"slices"
	"strings"
	"testing"
)

// TestResolve finds out who a command's user is.
func TestResolve(t *testing.T) {
	t.Parallel()
	root := guestRoot(t, map[string]string{
		"/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:www:/var/www:/bin/false\n# a remark\nbroken:x:12\n+nis::::::\n" +
			"5000:x:77:88:a number:/n:/bin/sh\nbad:x:-1:0::/:/bin/sh\nmany:x:50:50::/many:/bin/sh\nnone:x:4294967295:1::/:/bin/sh\nhomeless:x:60:60:::\n",
		"/etc/group": "root:x:0:\nweb:x:33:\nwheel:x:10:root, many\nstaff:x:20:many,web,many\nbroken:x\nown:x:50:many\n",
	})
	for _, row := range []struct {
		user string
		want identity
		err  string
	}{
		{"", identity{home: "/root", name: "root", inherited: true}, ""},
		{"root", identity{groups: []uint32{10}, home: "/root", name: "root"}, ""},
		{"0", identity{groups: []uint32{10}, home: "/root", name: "root"}, ""},
		{"web", identity{uid: 33, gid: 33, groups: []uint32{20}, home: "/var/www", name: "web"}, ""},
		{"33", identity{uid: 33, gid: 33, groups: []uint32{20}, home: "/var/www", name: "web"}, ""},
		{"many", identity{uid: 50, gid: 50, groups: []uint32{10, 20}, home: "/many", name: "many"}, ""},
		{"many:root", identity{uid: 50, home: "/many", name: "many"}, ""},
		{"many:123", identity{uid: 50, gid: 123, home: "/many", name: "many"}, ""},
		{"5000", identity{uid: 77, gid: 88, home: "/n", name: "5000"}, ""}, // a name goes before a number
		{"1234", identity{uid: 1234, home: "/"}, ""},
		{"1234:staff", identity{uid: 1234, gid: 20, home: "/"}, ""},
		{"homeless", identity{uid: 60, gid: 60, home: "/", name: "homeless"}, ""},
		{"nobody", identity{}, `user "nobody" is not in /etc/passwd`},
		{"web:nogroup", identity{}, `group "nogroup" is not in /etc/group`},
		{"web:", identity{}, `group ""`},
		{":web", identity{}, `user ""`},
		{"broken", identity{}, `user "broken"`},
		{"bad", identity{}, `user "bad"`},
		{"none", identity{}, `user "none"`},
		{"-1", identity{}, `user "-1"`},
		{"+1", identity{}, `user "+1"`},
		{"4294967295", identity{}, `user "4294967295"`},
		{"99999999999", identity{}, `user`},
	} {
		got, err := identify(root, row.user)
		if row.err != "" {
			if err == nil || !strings.Contains(err.Error(), row.err) {
				t.Errorf("%q: %+v, %v; want %s", row.user, got, err, row.err)
			}
			continue
		}
		if err != nil || got.uid != row.want.uid || got.gid != row.want.gid || !slices.Equal(got.groups, row.want.groups) ||
			got.home != row.want.home || got.name != row.want.name || got.inherited != row.want.inherited {
			t.Errorf("%q: %+v, %v; want %+v", row.user, got, err, row.want)
		}
	}
	// An image without users has numbers.
	if got, err := identify(t.TempDir(), "7:8"); err != nil || got.uid != 7 || got.gid != 8 {
		t.Errorf("without files: %+v, %v", got, err)
	}
}

// TestEnvironmentLayers checks what counts where a variable is set twice.
func TestEnvironmentLayers(t *testing.T) {
	t.Parallel()
	who := identity{home: "/h", name: "me"}
	guest := map[string]string{"A": "guest", "B": "guest", "PATH": "/guest"}
	for _, row := range []struct {
		c    Command
		want string
	}{
		{Command{}, "A=guest B=guest HOME=/h LOGNAME=me PATH=/guest USER=me"},
		{Command{Env: []string{"B=1", "B=2", "HOME=/x", "USER=", "nonsense", "=x"}}, "A=guest B=2 HOME=/x LOGNAME=me PATH=/guest USER="},
		{Command{TTY: &TTY{}}, "A=guest B=guest HOME=/h LOGNAME=me PATH=/guest TERM=xterm USER=me"},
		{Command{TTY: &TTY{Term: "vt100"}}, "A=guest B=guest HOME=/h LOGNAME=me PATH=/guest TERM=vt100 USER=me"},
		{Command{TTY: &TTY{Term: "vt100"}, Env: []string{"TERM=dumb"}}, "A=guest B=guest HOME=/h LOGNAME=me PATH=/guest TERM=dumb USER=me"},
	} {
		if got := strings.Join(environment(row.c, guest, who), " "); got != row.want {
			t.Errorf("%+v: %s; want %s", row.c, got, row.want)
		}
	}
}

// FuzzTables checks that no line of a user's file is taken for what it isn't.
func FuzzTables(f *testing.F) {
	f.Add("root:x:0:0:root:/root:/bin/sh")
	f.Add("wheel:x:10:root,me")
	f.Add(":::::::")
	f.Fuzz(func(t *testing.T, line string) {
		if a, ok := parseAccount(line); ok {
			if field := strings.Split(line, ":"); a.name != field[0] || a.name == "" || len(field) != 7 {
				t.Errorf("%q is %+v", line, a)
			}
			if got, found := findAccount(a.name, []account{a}); !found || got != a {
				t.Errorf("%q isn't found by its name", line)
			}
		}
		if g, ok := parseGroup(line); ok {
			for _, member := range g.members {
				if member == "" || strings.ContainsAny(member, ",:") {
					t.Errorf("%q has the member %q", line, member)
				}
			}
		}
	})
}
