package sdk

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// fill sets everything that can be set below v to something that isn't zero.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i))
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(v.Index(i))
		}
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key)
		fill(value)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.String:
		v.SetString("text")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int64: // durations
		v.SetInt(int64(1500 * time.Millisecond))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(7)
	default:
		panic("sdk: a configuration holds a " + v.Kind().String())
	}
}

// TestWire checks that every field crosses to the sandbox's process, secrets'
// values included, but for those that only the caller needs, and that nothing
// secret is kept.
func TestWire(t *testing.T) {
	t.Parallel()
	var cfg SandboxConfig
	fill(reflect.ValueOf(&cfg).Elem())
	for i := range cfg.Secrets {
		cfg.Secrets[i].Value = "value" + string(rune('0'+i))
	}
	cfg.RegistryAuth.Password = "password"
	cfg.image = &imageDefaults{}
	fill(reflect.ValueOf(cfg.image).Elem())
	raw, err := wireOf(&cfg)
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := parseWire(raw)
	if err != nil {
		t.Fatal(err)
	}
	callers := cmpopts.IgnoreFields(SandboxConfig{}, "Replace", "ReplaceWithTimeout", "RegistryAuth", "RegistryCACerts", "local")
	if diff := cmp.Diff(cfg, got, callers, cmp.AllowUnexported(SandboxConfig{})); diff != "" {
		t.Errorf("what crosses differs:\n%s", diff)
	}
	text, err := json.Marshal(kept{Config: cfg, Image: cfg.image})
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"value0", "value1", "password"} {
		if strings.Contains(string(text), secret) {
			t.Errorf("%q is kept in %s", secret, text)
		}
	}
	without, _, err := parseWire(text)
	if err != nil {
		t.Fatal(err)
	}
	if without.Secrets[0].EnvVar == "" || without.Secrets[0].Value != "" {
		t.Errorf("a kept secret reads %v", without.Secrets[0])
	}
	for _, bad := range []string{"", "[]", `{"config":{"memory":1}}`, `{"config":{},"more":1}`, `{"config":{},"values":["x"]}`, `{"config":{}} {}`} {
		if _, _, err := parseWire(json.RawMessage(bad)); err == nil {
			t.Errorf("%s was read", bad)
		}
	}
}

// TestClone checks that a configuration's copy shares nothing with it.
func TestClone(t *testing.T) {
	t.Parallel()
	var cfg SandboxConfig
	fill(reflect.ValueOf(&cfg).Elem())
	copied, err := cfg.clone()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Network.Rules[0].Ports[0] = "changed"
	cfg.Env["text"] = "changed"
	cfg.Secrets[0].AllowHosts[0] = "changed"
	if copied.Network.Rules[0].Ports[0] != "text" || copied.Env["text"] != "text" || copied.Secrets[0].AllowHosts[0] != "text" {
		t.Error("the copy changes with what it was made of")
	}
	if copied.RegistryAuth == nil || !copied.Replace || copied.ReplaceWithTimeout == nil || len(copied.RegistryCACerts) == 0 {
		t.Errorf("the copy lacks what only the caller needs: %+v", copied)
	}
}

// TestResolvePaths checks that every path of the host is made absolute, and none
// of the guest.
func TestResolvePaths(t *testing.T) {
	t.Parallel()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	cfg := SandboxConfig{
		BindRootfs:          "root",
		RegistryCACertsPath: "ca.pem",
		Patches:             []PatchConfig{Patch.CopyFile("a", "/b", PatchOptions{}), Patch.Symlink("up", "/c", PatchOptions{})},
		Mounts:              map[string]MountConfig{"/m": Mount.Bind(".", MountOptions{}), "/t": Mount.Tmpfs(TmpfsOptions{})},
		Network: &NetworkConfig{TLS: &TLSConfig{
			CACert: "cert", CAKey: "key", UpstreamCACerts: []string{"up"},
			ScopedUpstreamCACerts: []ScopedUpstreamCACert{{Pattern: "a.example", Path: "scoped"}},
		}},
	}
	cfg.resolvePaths()
	tls := cfg.Network.TLS
	for _, tt := range [][2]string{
		{cfg.BindRootfs, "root"}, {cfg.RegistryCACertsPath, "ca.pem"}, {cfg.Patches[0].Src, "a"}, {cfg.Mounts["/m"].Bind, "."},
		{tls.CACert, "cert"}, {tls.CAKey, "key"}, {tls.UpstreamCACerts[0], "up"}, {tls.ScopedUpstreamCACerts[0].Path, "scoped"},
	} {
		if want := filepath.Join(dir, tt[1]); tt[0] != want {
			t.Errorf("%s became %s, want %s", tt[1], tt[0], want)
		}
	}
	if cfg.Patches[1].Target != "up" || cfg.Mounts["/t"].Bind != "" || cfg.Patches[0].Dst != "/b" {
		t.Errorf("paths of the guest have changed: %+v %+v", cfg.Patches, cfg.Mounts)
	}
}
