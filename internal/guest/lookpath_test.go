package guest

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestLookPath(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"one/prog": 0o755, "two/prog": 0o755, "two/data": 0o644, "one/only": 0o644, "two/only": 0o755, "here": 0o755} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	in := func(path string) string { return "PATH=" + path }
	one, two := dir+"/one", dir+"/two"
	for _, row := range []struct {
		name, arg0 string
		env        []string
		dir        string
		want       string // a path, unless code is set
		code       int
	}{
		{"the first in PATH", "prog", []string{in(one + ":" + two)}, "", one + "/prog", 0},
		{"what can't be executed is passed over", "only", []string{in(one + ":" + two)}, "", two + "/only", 0},
		{"the last PATH counts", "prog", []string{in(two), in(one)}, "", one + "/prog", 0},
		{"only one that can't be executed", "data", []string{in(one + ":" + two)}, "", "", CodeNotExecutable},
		{"absent", "gone", []string{in(one + ":" + two)}, "", "", CodeNotFound},
		{"empty PATH element is the directory", "here", []string{in(":" + one)}, dir, "./here", 0},
		{"empty PATH is the directory", "here", []string{in("")}, dir, "./here", 0},
		{"relative PATH element", "prog", []string{in("one")}, dir, "one/prog", 0},
		{"no PATH", "sh", nil, "", "", 0},
		{"a path", one + "/prog", nil, "", one + "/prog", 0},
		{"a path relative to the directory", "./prog", nil, one, "./prog", 0},
		{"a path that isn't there", one + "/gone", nil, "", "", CodeNotFound},
		{"a path through a file", one + "/prog/x", nil, "", "", CodeNotFound},
		{"a directory", one, nil, "", "", CodeNotExecutable},
		{"a file without permission", two + "/data", nil, "", "", CodeNotExecutable},
		{"a directory that isn't there", "prog", []string{in(one)}, dir + "/gone", "", CodeNotExecutable},
		{"a directory that is a file", "prog", []string{in(one)}, dir + "/here", "", CodeNotExecutable},
		{"no name", "", []string{in(one)}, "", "", CodeNotFound},
	} {
		got, err := lookPath(Command{Args: []string{row.arg0}, Env: row.env, Dir: row.dir})
		var failure *StartError
		switch {
		case row.code != 0:
			if !errors.As(err, &failure) || failure.Code != row.code {
				t.Errorf("%s: lookPath(%q) = %q, %v; want code %d", row.name, row.arg0, got, err, row.code)
			}
		case err != nil || row.want != "" && got != row.want:
			t.Errorf("%s: lookPath(%q) = %q, %v; want %q", row.name, row.arg0, got, err, row.want)
		}
	}
}
