package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// madeUp matches the names that run makes up.
var madeUp = regexp.MustCompile(`run-[0-9a-f]{8}`)

// TestErrors runs the commands of testdata/errors.golden, each behind a $, and
// compares what they say: wrong flags, wrong files, wrong names. Whoever changes
// one reads the whole message: what failed, why, what to type next. With
// SLUICE_UPDATE=1 the file is written anew, to be read in the diff.
func TestErrors(t *testing.T) {
	const golden = "testdata/errors.golden"
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	t.Setenv("SLUICE_HOME", filepath.Join(dir, "home"))
	t.Setenv("XDG_RUNTIME_DIR", filepath.Join(dir, "run"))
	t.Setenv("SLUICE_BACKEND", "")
	if err := os.Mkdir(filepath.Join(dir, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for line := range strings.Lines(string(want)) {
		args, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "$ sluice ")
		if !ok {
			if strings.HasPrefix(line, "# ") {
				got.WriteString("\n" + line)
			}
			continue
		}
		code, text := runHere(t, dir, words(args))
		fmt.Fprintf(&got, "\n$ sluice %s\n%s[%d]\n", args, madeUp.ReplaceAllString(text, "run-NAME"), code)
	}
	text := strings.TrimPrefix(got.String(), "\n")
	if os.Getenv("SLUICE_UPDATE") == "1" {
		if err := os.WriteFile(golden, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if text != string(want) {
		t.Errorf("messages changed; with SLUICE_UPDATE=1 the test writes them, to be read. Now:\n%s", text)
	}
}

// runHere runs sluice within the test and returns its exit code and what it
// wrote to standard error.
func runHere(t *testing.T, dir string, args []string) (int, string) {
	t.Helper()
	out, err := os.Create(filepath.Join(dir, "err"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	c := newConsole(null, null, out)
	c.colour = false
	code := run(args, c)
	text, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	return code, string(text)
}

// words parts a command line as a shell does that knows single quotes only.
func words(line string) []string {
	var all []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			all = append(all, part)
			continue
		}
		all = append(all, strings.Fields(part)...)
	}
	return all
}
