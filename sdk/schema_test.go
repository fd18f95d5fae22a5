package sdk

import (
	"encoding/json"
	"flag"
	"maps"
	"os"
	"reflect"
	"slices"
	"testing"
)

var update = flag.Bool("update", false, "write what the test would compare with")

// TestSchemaPublished compares the published schema with what the types say.
func TestSchemaPublished(t *testing.T) {
	t.Parallel()
	const published = "../docs/policy.schema.json"
	if *update {
		if err := os.WriteFile(published, NetworkConfigSchema(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(published)
	if err != nil {
		t.Fatal(err)
	}
	if string(text) != string(NetworkConfigSchema()) {
		t.Errorf("%s is out of date: go test ./sdk -run SchemaPublished -update", published)
	}
}

// TestSchemaKeys compares the schema's keys with those that the parser of files
// accepts, all the way down.
func TestSchemaKeys(t *testing.T) {
	t.Parallel()
	var s map[string]any
	if err := json.Unmarshal(NetworkConfigSchema(), &s); err != nil {
		t.Fatal(err)
	}
	compareKeys(t, "", s, reflect.TypeFor[networkFile]())
}

func compareKeys(t *testing.T, path string, s map[string]any, typ reflect.Type) {
	t.Helper()
	if items, ok := s["items"].(map[string]any); ok {
		s = items
	}
	properties, ok := s["properties"].(map[string]any)
	if !ok {
		return
	}
	want := keysOf(typ)
	slices.Sort(want)
	if got := slices.Sorted(maps.Keys(properties)); !slices.Equal(got, want) {
		t.Errorf("%s: schema has %v, files have %v", path, got, want)
	}
	for key, value := range properties {
		if next := below(typ, key); next != nil {
			if next.Kind() == reflect.Slice {
				next = next.Elem()
			}
			compareKeys(t, path+"."+key, value.(map[string]any), next)
		}
	}
}
