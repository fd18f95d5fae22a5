package dns

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDocNamesTests shows that the tests and files which the package's doc names
// exist.
func TestDocNamesTests(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var tests strings.Builder
	for _, file := range files {
		if text, err := os.ReadFile(file); err != nil {
			t.Error(err)
		} else if strings.HasSuffix(file, "_test.go") {
			tests.Write(text)
		}
	}
	names := regexp.MustCompile(`\b(Test|Fuzz)[A-Z]\w+`).FindAllString(string(doc), -1)
	if len(names) < 40 {
		t.Errorf("the doc names %d tests", len(names))
	}
	for _, name := range names {
		if !strings.Contains(tests.String(), "func "+name+"(") {
			t.Errorf("the doc names %s, which isn't there", name)
		}
	}
	for _, file := range regexp.MustCompile(`\b[a-z]+\.go\b`).FindAllString(string(doc), -1) {
		if _, err := os.Stat(file); err != nil {
			t.Errorf("the doc names %s: %v", file, err)
		}
	}
}
