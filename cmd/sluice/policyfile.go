package main

import (
	"bytes"
	"fmt"
	"os"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/pflag"

	m "github.com/sluicenet/sluice/sdk"
)

// A policyFile is what --policy names. Its writer knows lines and keys, and nothing
// of the sdk's fields.
type policyFile []byte

// policyFileOf returns the file that flags name, nil if its rules aren't where the
// configuration has them: --deny puts others before.
func policyFileOf(flags *pflag.FlagSet) policyFile {
	if !flags.Changed("policy") || flags.Changed("deny") {
		return nil
	}
	text, err := os.ReadFile(flags.Lookup("policy").Value.String())
	if err != nil {
		return nil // it was read before, and is gone since
	}
	return text
}

// place returns where the file has a field of the configuration, as line and key:
// Rules[0].Action is "line 3: rules[0].action". It is "" for what isn't there.
func (f policyFile) place(field string) string {
	key, ok := keyOf(field)
	if !ok || f == nil {
		return ""
	}
	at := f.line(key)
	if i := strings.LastIndexByte(key, '.'); at == 0 && i > 0 {
		at = f.line(key[:i]) // port is read as one of ports
	}
	if at == 0 {
		return ""
	}
	return fmt.Sprintf("line %d: %s", at, key)
}

// line returns the line that a key stands on, 0 if the file doesn't have it.
func (f policyFile) line(key string) int {
	path, err := yaml.PathString("$." + key)
	if err != nil {
		return 0
	}
	node, err := path.ReadNode(bytes.NewReader(f))
	if err != nil || node.GetToken() == nil {
		return 0
	}
	return node.GetToken().Position.Line
}

// keyOf returns the path of a field as files have it.
func keyOf(field string) (key string, ok bool) {
	t := reflect.TypeFor[m.NetworkConfig]()
	var keys []string
	for part := range strings.SplitSeq(field, ".") {
		name, index, _ := strings.Cut(part, "[")
		for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct {
			return "", false
		}
		f, ok := t.FieldByName(name)
		if !ok {
			return "", false
		}
		key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if index != "" {
			key += "[" + index
		}
		keys = append(keys, key)
		t = f.Type
	}
	return strings.Join(keys, "."), true
}
