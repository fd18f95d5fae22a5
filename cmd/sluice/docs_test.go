package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDocumentedCommands finds each command line of the documentation in a story:
// what a reader copies was run as it stands.
func TestDocumentedCommands(t *testing.T) {
	t.Parallel()
	told := make(map[string]bool)
	for _, story := range files(t, "testdata/*.txtar") {
		for _, line := range story.lines {
			if i := strings.Index(line, "sluice "); i >= 0 {
				told[line[i:]] = true
			}
		}
	}
	pages := append(files(t, "../../docs/*.md"), files(t, "../../README.md")...)
	for _, page := range pages {
		shell := false
		for i, line := range page.lines {
			switch {
			case strings.HasPrefix(line, "```"):
				shell = line == "```sh"
			case shell && strings.HasPrefix(line, "sluice ") && !told[line]:
				t.Errorf("%s:%d: no story runs %q", page.name, i+1, line)
			}
		}
	}
}

// A textFile is a file and its lines.
type textFile struct {
	name  string
	lines []string
}

// files reads what a pattern matches, at least one file.
func files(t *testing.T, pattern string) []textFile {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("%s: %v, %d files", pattern, err, len(paths))
	}
	var all []textFile
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, textFile{filepath.Base(path), strings.Split(string(text), "\n")})
	}
	return all
}
