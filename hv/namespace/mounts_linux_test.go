package namespace

import (
	"slices"
	"strings"
	"testing"
)

func TestParseMounts(t *testing.T) {
	t.Parallel()
	const text = `22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw,discard
36 27 0:45 / /mnt/with\040space\134and\012more rw - tmpfs none rw,size=4k
`
	got, err := parseMounts(strings.NewReader(text))
	want := []mount{{"/proc", "proc"}, {"/", "ext4"}, {"/mnt/with space\\and\nmore", "tmpfs"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	for _, bad := range []string{"22 27 0:21 / /proc rw\n", "22 27 0:21 / - proc proc rw\n", " - \n", "22 27 0:21 / /proc rw - \n"} {
		if got, err := parseMounts(strings.NewReader(bad)); err == nil {
			t.Errorf("parseMounts(%q) = %q; want an error", bad, got)
		}
	}
}

func FuzzParseMounts(f *testing.F) {
	f.Add("22 27 0:21 / /a\\040b rw - ext4 x rw\n")
	f.Add("\\1234\\8\\")
	f.Fuzz(func(t *testing.T, text string) {
		mounts, err := parseMounts(strings.NewReader(text))
		if err == nil && len(mounts) > strings.Count(text, " - ") {
			t.Errorf("%d mounts of %q", len(mounts), text)
		}
		// Unescaping undoes what the kernel does with a path.
		escaped := strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`).Replace(text)
		if got := unescape(escaped); got != text {
			t.Errorf("unescape(%q) = %q; want %q", escaped, got, text)
		}
	})
}
