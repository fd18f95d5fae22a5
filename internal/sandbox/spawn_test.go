package sandbox

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// TestEnvironment checks that a sandbox's process gets nothing of its creator's
// environment but what is listed.
func TestEnvironment(t *testing.T) {
	t.Parallel()
	env := []string{"PATH=/bin", "AWS_SECRET_ACCESS_KEY=x", "HOME=/h", "PATHS=/x", "SLUICE_HOME=/s", "SLUICE_EXECUTABLE=/x", "=C:=x", "GODEBUG"}
	want := []string{"PATH=/bin", "HOME=/h", "SLUICE_HOME=/s", "GODEBUG"}
	if got := environment(env, ""); !slices.Equal(got, want) {
		t.Errorf("environment %q, want %q", got, want)
	}
	if got := environment([]string{"SLUICE_KERNEL=/old", "PATH=/bin"}, "/new"); !slices.Equal(got, []string{"PATH=/bin", "SLUICE_KERNEL=/new"}) {
		t.Errorf("environment with a kernel %q", got)
	}
}

// TestLastWords checks what is quoted of a process that crashed.
func TestLastWords(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, said, want string }{
		{"nothing", "", ""},
		{"a line", "sluice: no\n", "sluice: no"},
		{"a panic", strings.Repeat("noise\n", 2000) + "panic: oh\n\ngoroutine 1\n" + strings.Repeat("x", 5000), "panic: oh\n\ngoroutine 1\n" + strings.Repeat("x", maxLastWords-len("panic: oh\n\ngoroutine 1\n"))},
		{"much", strings.Repeat("x", 5000) + "end", strings.Repeat("x", maxLastWords-3) + "end"},
		{"bytes", "a\xffb", "a?b"},
	} {
		f, err := namelessFile()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(tt.said); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(f.Name()); err == nil {
			t.Errorf("%s still has its name", f.Name())
		}
		if got := (&Process{output: f}).lastWords(); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}
