package image

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func TestChoosePlatform(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		have, want, choice string // choice is one of have; "" is an error
	}{
		{"linux/amd64 linux/arm64", "linux/arm64", "linux/arm64"},
		{"linux/amd64 linux/arm64/v8", "linux/arm64", "linux/arm64/v8"},
		{"linux/amd64 linux/arm64", "linux/arm64/v8", "linux/arm64"},
		{"linux/arm/v5 linux/arm/v7", "linux/arm", "linux/arm/v7"},
		{"linux/arm/v5 linux/arm/v6", "linux/arm", "linux/arm/v5"},
		{"linux/arm/v5 linux/arm/v7", "linux/arm/v6", ""},
		{"linux/amd64/v2 linux/amd64", "linux/amd64", "linux/amd64"},
		{"linux/amd64/v2", "linux/amd64", "linux/amd64/v2"},
		{"windows/amd64", "linux/amd64", ""},
		{"unknown/unknown linux/amd64", "linux/amd64", "linux/amd64"},
		{"none", "linux/amd64", "none"},
		{"none none", "linux/amd64", ""},
		{"", "linux/amd64", ""},
	} {
		var list []v1.Descriptor
		for i, s := range strings.Fields(row.have) {
			d := v1.Descriptor{Size: int64(i)}
			if s != "none" {
				p := mustPlatform(s)
				d.Platform = &p
			}
			list = append(list, d)
		}
		got, err := choosePlatform(list, mustPlatform(row.want))
		choice := ""
		if err == nil {
			choice = strings.Fields(row.have)[got.Size]
		} else if !errors.Is(err, ErrNotFound) || strings.Contains(err.Error(), "unknown") {
			t.Errorf("%q for %s: %v", row.have, row.want, err)
		}
		if choice != row.choice {
			t.Errorf("%q for %s: %q, want %q", row.have, row.want, choice, row.choice)
		}
	}
}

func TestIsIndex(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		document string
		index    bool
		ok       bool
	}{
		{`{"schemaVersion":2,"config":{},"layers":[]}`, false, true},
		{`{"schemaVersion":2,"manifests":[]}`, true, true},
		{`{"schemaVersion":2,"manifests":[],"layers":[]}`, false, false},
		{`{"schemaVersion":2,"manifests":[],"config":{}}`, false, false},
		{`{"schemaVersion":2,"Manifests":[],"Config":{}}`, false, false},
		{`{"schemaVersion":2}`, false, false},
		{`{"schemaVersion":1,"fsLayers":[]}`, false, false},
		{`{"manifests":[]}`, false, false},
		{`[]`, false, false},
		{``, false, false},
	} {
		index, err := isIndex([]byte(row.document))
		if index != row.index || (err == nil) != row.ok || err != nil && !errors.Is(err, ErrContent) {
			t.Errorf("%s: %t, %v", row.document, index, err)
		}
	}
}

func TestManifestErrors(t *testing.T) {
	t.Parallel()
	good := "sha256:" + strings.Repeat("a", 64)
	limits := Limits{Layers: 2, LayerBytes: 100, DocumentBytes: 50}.withDefaults()
	manifest := func(config, layers string) string {
		return fmt.Sprintf(`{"schemaVersion":2,"config":%s,"layers":[%s]}`, config, layers)
	}
	blob := func(digest string, size int) string { return fmt.Sprintf(`{"digest":%q,"size":%d}`, digest, size) }
	for _, row := range []struct {
		document, want string
	}{
		{manifest(blob(good, 50), blob(good, 100)), ""},
		{manifest(blob(good, 51), ""), "51 bytes; 50 are the most"},
		{manifest(blob(good, 1), blob(good, 101)), "101 bytes; 100 are the most"},
		{manifest(blob(good, 1), blob(good, -1)), "-1 bytes"},
		{manifest(blob(good, 1), strings.Repeat(blob(good, 1)+",", 2)+blob(good, 1)), "3 layers; 2 are the most"},
		{manifest(blob("sha256:../../../../etc/passwd", 1), ""), "parse manifest"},
		{manifest(blob("sha512:"+strings.Repeat("a", 128), 1), ""), "not of SHA-256"},
		{manifest(blob("sha256:"+strings.Repeat("A", 64), 1), ""), "parse manifest"},
		{manifest(`{}`, ""), "not of SHA-256"},
		{manifest(`{"mediaType":"text/plain"}`, ""), `no container image but "text/plain"`},
		{`x`, "parse manifest"},
	} {
		_, err := parseManifest([]byte(row.document), limits)
		if row.want == "" && err != nil || row.want != "" && (!errors.Is(err, ErrContent) || !strings.Contains(err.Error(), row.want)) {
			t.Errorf("%s: %v, want %q", row.document, err, row.want)
		}
	}
}

func TestConfigureErrors(t *testing.T) {
	t.Parallel()
	good := `"sha256:` + strings.Repeat("a", 64) + `"`
	for _, row := range []struct {
		document, want string
	}{
		{`{"rootfs":{"diff_ids":[` + good + `]}}`, ""},
		{`{"rootfs":{"diff_ids":[]}}`, "1 layers, but 0 diffIDs"},
		{`{"rootfs":{"diff_ids":[` + good + `,` + good + `]}}`, "1 layers, but 2 diffIDs"},
		{`{"rootfs":{"diff_ids":["sha512:` + strings.Repeat("a", 128) + `"]}}`, "not of SHA-256"},
		{`{"config":{"Env":["A=\u0000"]},"rootfs":{"diff_ids":[` + good + `]}}`, "a NUL"},
		{`{"config":{"Entrypoint":["\u0000"]},"rootfs":{"diff_ids":[` + good + `]}}`, "a NUL"},
		{`{"config":{"User":"\u0000"},"rootfs":{"diff_ids":[` + good + `]}}`, "a NUL"},
		{`x`, "parse configuration"},
	} {
		m := &manifest{Manifest: v1.Manifest{Layers: make([]v1.Descriptor, 1)}}
		err := m.configure([]byte(row.document))
		if row.want == "" && err != nil || row.want != "" && (!errors.Is(err, ErrContent) || !strings.Contains(err.Error(), row.want)) {
			t.Errorf("%s: %v, want %q", row.document, err, row.want)
		}
	}
}

func TestReference(t *testing.T) {
	t.Parallel()
	digest := "sha256:" + strings.Repeat("d", 64)
	for _, row := range []struct {
		text, canonical, familiar string // "" for a path
	}{
		{"alpine", "index.docker.io/library/alpine:latest", "alpine:latest"},
		{"docker.io/library/alpine:3.22", "index.docker.io/library/alpine:3.22", "alpine:3.22"},
		{"user/app", "index.docker.io/user/app:latest", "user/app:latest"},
		{"ghcr.io/user/app:1", "ghcr.io/user/app:1", "ghcr.io/user/app:1"},
		{"localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app:latest"},
		{"alpine@" + digest, "index.docker.io/library/alpine@" + digest, "alpine@" + digest},
		{"alpine:3.22@" + digest, "index.docker.io/library/alpine@" + digest, "alpine@" + digest},
		{"./alpine", "", ""},
		{"../alpine", "", ""},
		{"/alpine", "", ""},
	} {
		r, err := parseReference(row.text)
		if err != nil || r.name != row.canonical || (r.path != "") != (row.canonical == "") {
			t.Errorf("%q: %+v, %v", row.text, r, err)
		}
		if got := familiar(r.name); row.canonical != "" && got != row.familiar {
			t.Errorf("%q is shown as %q, want %q", row.text, got, row.familiar)
		}
		if strings.Contains(row.text, "@") != (r.pinned != (v1.Hash{})) {
			t.Errorf("%q: pinned to %v", row.text, r.pinned)
		}
	}
	for _, text := range []string{"", "A", "a b", "a:", "a@sha256:d", "http://a/b", "a/../b", "-a", "a/./b", "a..b", "a//b"} {
		if r, err := parseReference(text); !errors.Is(err, ErrReference) {
			t.Errorf("%q: %+v, %v", text, r, err)
		}
	}
}
