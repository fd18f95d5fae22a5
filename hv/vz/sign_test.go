package vz

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// The file that codesign is given is XML, a dictionary with one key that is true.
func TestEntitlementsAreAPropertyList(t *testing.T) {
	t.Parallel()
	var words []string
	for d := xml.NewDecoder(strings.NewReader(entitlements)); ; {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			words = append(words, token.Name.Local)
		case xml.CharData:
			if text := strings.TrimSpace(string(token)); text != "" {
				words = append(words, text)
			}
		}
	}
	if want := []string{"plist", "dict", "key", "com.apple.security.virtualization", "true"}; !slices.Equal(words, want) {
		t.Errorf("%q, want %q", words, want)
	}
}

func TestGrants(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, plist string
		want        bool
	}{
		{"ours", entitlements, true},
		{"on one line", "<plist><dict><key>com.apple.security.virtualization</key><true/></dict></plist>", true},
		{"beside another", "<dict><key>com.apple.security.hypervisor</key><true/><key>com.apple.security.virtualization</key>\n<true/></dict>", true},
		{"false", "<dict><key>com.apple.security.virtualization</key><false/><key>x</key><true/></dict>", false},
		{"a longer one", "<dict><key>com.apple.security.virtualization.x</key><true/></dict>", false},
		{"another", "<dict><key>com.apple.security.hypervisor</key><true/></dict>", false},
		{"none", "", false},
	} {
		if got := grants([]byte(row.plist)); got != row.want {
			t.Errorf("%s: %t, want %t", row.name, got, row.want)
		}
	}
}

// A mac is a signer's view of codesign: programs are signed that have the word.
type mac struct {
	calls []string
	fails bool
}

func (m *mac) start(_ context.Context, path string, args ...string) ([]byte, error) {
	m.calls = append(m.calls, path+" "+strings.Join(args[1:], " "))
	program := args[len(args)-1]
	text, err := os.ReadFile(program)
	switch {
	case err != nil:
		return nil, err
	case args[1] == "--display" && !bytes.HasSuffix(text, []byte("SIGNED")):
		return nil, errors.New("code object is not signed at all")
	case args[1] == "--display":
		return []byte(entitlements), nil
	case m.fails:
		return nil, errors.New("codesign: no")
	}
	plist, err := os.ReadFile(args[slices.Index(args, "--entitlements")+1])
	if err != nil || string(plist) != entitlements {
		return nil, errors.New("no entitlements")
	}
	return nil, os.WriteFile(program, append(text, "SIGNED"...), 0o700)
}

func TestExecutable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program := filepath.Join(dir, "prog")
	if err := os.WriteFile(program, []byte("code"), 0o755); err != nil {
		t.Fatal(err)
	}
	m := new(mac)
	s := signer{start: m.start, cache: filepath.Join(dir, "cache")}
	first, err := s.executable(t.Context(), program)
	if err != nil || first == program {
		t.Fatalf("%q, %v; want a copy", first, err)
	}
	info, err := os.Stat(first)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v; want a program for its owner", info.Mode(), err)
	}
	if text, _ := os.ReadFile(program); string(text) != "code" {
		t.Errorf("the program itself is now %q", text)
	}
	sign := m.calls[len(m.calls)-1]
	if !strings.HasPrefix(sign, "/usr/bin/codesign --sign - --force --entitlements ") {
		t.Errorf("codesign was called as %q", sign)
	}
	// Another time there is nothing to do; another program has another copy.
	calls := len(m.calls)
	if again, err := s.executable(t.Context(), program); err != nil || again != first || len(m.calls) != calls+2 {
		t.Errorf("%q, %v, with %q; want the copy that there is", again, err, m.calls[calls:])
	}
	if err := os.WriteFile(program, []byte("newer code"), 0o755); err != nil {
		t.Fatal(err)
	}
	if other, err := s.executable(t.Context(), program); err != nil || other == first {
		t.Errorf("%q, %v; want another copy", other, err)
	}
	// A copy serves as it is, wherever it runs from.
	if same, err := s.executable(t.Context(), first); err != nil || same != first {
		t.Errorf("%q, %v; want itself", same, err)
	}
	entries, err := os.ReadDir(s.cache)
	if err != nil || len(entries) != 2 {
		t.Errorf("%v, %v; want two copies and nothing else", entries, err)
	}
}

func TestExecutableFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program := filepath.Join(dir, "prog")
	s := signer{start: (&mac{fails: true}).start, cache: filepath.Join(dir, "cache")}
	if _, err := s.executable(t.Context(), program); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a program that isn't there: %v", err)
	}
	if err := os.WriteFile(program, []byte("code"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := s.executable(t.Context(), program); err == nil || !strings.Contains(err.Error(), "codesign: no") {
		t.Errorf("%v; want what codesign said", err)
	}
	if entries, _ := os.ReadDir(s.cache); len(entries) != 0 {
		t.Errorf("%v is left", entries)
	}
}

// A failure of a program that isn't signed says so; another's is left alone.
func TestExplain(t *testing.T) {
	t.Parallel()
	cause := errors.New("invalid configuration")
	unsigned := signer{start: func(context.Context, string, ...string) ([]byte, error) { return nil, errors.New("not signed") }}
	err := unsigned.explain(t.Context(), cause)
	var unusable *unusableError
	if !errors.As(err, &unusable) || !errors.Is(err, errors.ErrUnsupported) || !errors.Is(err, cause) || !strings.Contains(unusable.fix, "codesign -s - --entitlements") {
		t.Errorf("%v", err)
	}
	signed := signer{start: func(context.Context, string, ...string) ([]byte, error) { return []byte(entitlements), nil }}
	if err := signed.explain(t.Context(), cause); err != cause {
		t.Errorf("%v; want the cause", err)
	}
}

// Of many builds the newest copies are kept, and what is being made is left alone.
func TestForgetCopies(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	work := filepath.Join(dir, ".sign-1")
	if err := os.Mkdir(work, 0o700); err != nil {
		t.Fatal(err)
	}
	const more = 3
	var want []string
	for i := range maxCopies + more {
		path := filepath.Join(dir, fmt.Sprintf("program-%d", i))
		if err := os.WriteFile(path, nil, 0o700); err != nil {
			t.Fatal(err)
		}
		made := time.Unix(int64(1e9+i), 0)
		if err := os.Chtimes(path, made, made); err != nil {
			t.Fatal(err)
		}
		if i >= more {
			want = append(want, path)
		}
	}
	forgetCopies(dir)
	got, err := filepath.Glob(filepath.Join(dir, "program-*"))
	slices.Sort(got)
	slices.Sort(want)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	if _, err := os.Stat(work); err != nil {
		t.Error(err)
	}
}
