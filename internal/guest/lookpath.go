package guest

import (
	"os"
	"path"
	"strings"
)

// lookPath returns the path of the program that c names, as a shell finds it:
// a name with a slash is a path, relative to Dir; any other is looked for in
// PATH, where the first that can be executed counts. It also checks Dir, whose
// absence would otherwise look like the program's. The error is a *StartError.
func lookPath(c Command) (string, error) {
	if len(c.Args) == 0 || c.Args[0] == "" {
		return "", &StartError{Code: CodeNotFound, Message: "no program is named"}
	}
	if info, err := os.Stat(c.dir()); err != nil || !info.IsDir() {
		return "", &StartError{Code: CodeNotExecutable, Message: c.dir() + ": not a directory to run in"}
	}
	name := c.Args[0]
	if strings.Contains(name, "/") {
		if failure := c.checkProgram(name); failure != nil {
			return "", failure
		}
		return name, nil
	}
	failure := &StartError{Code: CodeNotFound, Message: name + ": not found in PATH"}
	for _, dir := range strings.Split(variable(c.Env, "PATH", defaultPath), ":") {
		if dir == "" { // POSIX: an empty element is the working directory
			dir = "."
		}
		found := path.Join(dir, name)
		if !strings.Contains(found, "/") {
			found = "./" + found
		}
		switch f := c.checkProgram(found); {
		case f == nil:
			return found, nil
		case f.Code != CodeNotFound:
			failure = f
		}
	}
	return "", failure
}

// checkProgram reports why the file at name, relative to the command's
// directory, is no program; nil if it is one.
func (c Command) checkProgram(name string) *StartError {
	full := name
	if !path.IsAbs(full) {
		full = path.Join(c.dir(), full)
	}
	info, err := os.Stat(full)
	switch {
	case os.IsPermission(err):
		return &StartError{Code: CodeNotExecutable, Message: name + ": permission denied"}
	case err != nil:
		return &StartError{Code: CodeNotFound, Message: name + ": no such file"}
	case info.IsDir():
		return &StartError{Code: CodeNotExecutable, Message: name + ": is a directory"}
	case info.Mode()&0o111 == 0:
		return &StartError{Code: CodeNotExecutable, Message: name + ": is not executable"}
	}
	return nil
}

// dir returns the directory to run in.
func (c Command) dir() string {
	if c.Dir == "" {
		return "/"
	}
	return c.Dir
}
