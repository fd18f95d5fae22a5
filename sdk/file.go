package sdk

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// fileVersion is the version of the files that ParseNetworkConfig reads.
const fileVersion = 1

// maxFile bounds a file in bytes: ten thousand rules.
const maxFile = 1 << 20

// networkFile is a file: its version beside the fields of the configuration.
type networkFile struct {
	Version       *int `yaml:"version"`
	NetworkConfig `yaml:",inline"`
}

// LoadNetworkConfig reads the file at path. See [ParseNetworkConfig].
func LoadNetworkConfig(path string) (*NetworkConfig, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, &Error{Kind: ErrPathNotFound, Op: "read policy file", Cause: err}
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, &Error{Kind: ErrIO, Op: "read policy file", Cause: err}
	}
	n, err := ParseNetworkConfig(text)
	if err != nil {
		return nil, withOp("read policy file "+path, err)
	}
	return n, nil
}

// ParseNetworkConfig reads a configuration from YAML, of which JSON is a part:
// the fields of [NetworkConfig] in snake_case, beside version: 1.
//
//	version: 1
//	rules:
//	  - action: allow
//	    destination: api.example.com
//	    protocol: tcp
//	    port: "443"
//
// It is strict: a key that is unknown or given twice, a value of another type, a
// second document are errors, of kind ErrInvalidConfig, with line and column,
// and for a key the nearest one that exists. What the values mean is checked
// when a sandbox is created.
func ParseNetworkConfig(text []byte) (*NetworkConfig, error) {
	if len(text) > maxFile {
		return nil, fileError(nil, fmt.Sprintf("is longer than %d bytes", maxFile), "")
	}
	body, err := parseYAML(text)
	if err != nil {
		return nil, err
	}
	var file networkFile
	if err := yaml.NodeToValue(body, &file, yaml.Strict()); err != nil {
		return nil, explainYAML(err, body)
	}
	switch {
	case file.Version == nil:
		return nil, fileError(nil, "has no version", "write version: 1 at its top")
	case *file.Version != fileVersion:
		return nil, fileError(nil, fmt.Sprintf("version: \"%d\": this sluice reads version 1", *file.Version), "")
	}
	return &file.NetworkConfig, nil
}

// parseYAML returns the one document of a file. Tags, anchors and aliases are
// refused: a configuration needs none, and they make a small file large.
func parseYAML(text []byte) (ast.Node, error) {
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, explainYAML(err, nil)
	}
	switch {
	case len(file.Docs) == 0 || file.Docs[0].Body == nil:
		return nil, fileError(nil, "is empty", "write version: 1 and the fields of the network's configuration")
	case len(file.Docs) > 1:
		return nil, fileError(nil, "holds more than one document", "keep one")
	}
	var v plainOnly
	ast.Walk(&v, file.Docs[0].Body)
	if v.odd != nil {
		return nil, fileError(v.odd.GetToken(), "tags, anchors and aliases are not read", "write the value itself")
	}
	return file.Docs[0].Body, nil
}

// plainOnly finds a node that is neither value nor mapping nor list.
type plainOnly struct{ odd ast.Node }

// Visit implements ast.Visitor.
func (v *plainOnly) Visit(node ast.Node) ast.Visitor {
	switch node.(type) {
	case *ast.TagNode, *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode, *ast.DirectiveNode:
		if v.odd == nil {
			v.odd = node
		}
	}
	return v
}

// fileError is a problem of a file, at a token if it is known.
func fileError(at *token.Token, message, hint string) error {
	if at != nil {
		message = fmt.Sprintf("line %d, column %d: %s", at.Position.Line, at.Position.Column, message)
	}
	return &Error{Kind: ErrInvalidConfig, Message: message, Hint: hint}
}

// explainYAML turns the library's error about a document into ours.
func explainYAML(err error, body ast.Node) error {
	var unknown *yaml.UnknownFieldError
	if errors.As(err, &unknown) {
		key := unknown.Token.Value
		hint := ""
		if near := nearest(key, keysAt(body, unknown.Token)); near != "" {
			hint = fmt.Sprintf("did you mean %q?", near)
		}
		return fileError(unknown.Token, fmt.Sprintf("%q: no such key", key), hint)
	}
	var mistyped *yaml.TypeError
	if errors.As(err, &mistyped) {
		return fileError(mistyped.Token, "not "+wanted(mistyped.DstType), "")
	}
	var large *yaml.OverflowError
	if errors.As(err, &large) {
		return fileError(large.Token, fmt.Sprintf("%q: not %s", large.SrcNum, wanted(large.DstType)), "")
	}
	var located yaml.Error
	if errors.As(err, &located) {
		return fileError(located.GetToken(), located.GetMessage(), "")
	}
	return fileError(nil, err.Error(), "")
}

// wanted describes what a value of type t looks like in a file.
func wanted(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch k := t.Kind(); {
	case t == reflect.TypeFor[time.Duration]():
		return "a duration such as 100ms"
	case k == reflect.Bool:
		return "true or false"
	case reflect.Int <= k && k <= reflect.Int64:
		return "a whole number"
	case reflect.Uint <= k && k <= reflect.Uint64:
		return fmt.Sprintf("a whole number from 0 to %d", uint64(math.MaxUint64)>>(64-t.Bits()))
	case k == reflect.String:
		return "text"
	case k == reflect.Slice:
		return "a list"
	}
	return "a mapping of keys to values"
}

// keysAt returns the keys that could stand where the token does: those of the
// structure that holds it.
func keysAt(body ast.Node, at *token.Token) []string {
	v := &keyFinder{line: at.Position.Line, column: at.Position.Column}
	ast.Walk(v, body)
	t := reflect.TypeFor[networkFile]()
	for _, step := range strings.FieldsFunc(v.path, func(r rune) bool { return r == '.' || r == '[' }) {
		if step == "$" {
			continue
		}
		if t = below(t, step); t == nil {
			return nil
		}
	}
	return keysOf(t)
}

// A keyFinder finds the path of the mapping that has a key at a position.
type keyFinder struct {
	line, column int
	path         string // as YAMLPath writes it: $.rules[0]
}

// Visit implements ast.Visitor.
func (f *keyFinder) Visit(node ast.Node) ast.Visitor {
	if v, ok := node.(*ast.MappingValueNode); ok {
		at := v.Key.GetToken().Position
		if at.Line == f.line && at.Column == f.column {
			path := v.Key.GetPath()
			f.path = path[:max(strings.LastIndexByte(path, '.'), 0)]
		}
	}
	return f
}

// below returns the type one step below t: a field by its key, or an element.
func below(t reflect.Type, step string) reflect.Type {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if strings.HasSuffix(step, "]") {
		if t.Kind() == reflect.Slice {
			return t.Elem()
		}
		return nil
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	for _, f := range reflect.VisibleFields(t) {
		if keyOf(f) == step {
			return f.Type
		}
	}
	return nil
}

// keysOf returns the keys of a structure, or of what a list or pointer holds.
func keysOf(t reflect.Type) []string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	var keys []string
	for _, f := range reflect.VisibleFields(t) {
		if key := keyOf(f); key != "" {
			keys = append(keys, key)
		}
	}
	return keys
}

// keyOf returns a field's key in a file, "" if it has none.
func keyOf(f reflect.StructField) string {
	tag := f.Tag.Get("yaml") + f.Tag.Get("json")
	key, _, _ := strings.Cut(tag, ",")
	return key
}

// nearest returns the key that takes the fewest changes of single letters to
// get from word, where a key's first letters take one; "" if none is near.
func nearest(word string, keys []string) string {
	best, fewest := "", 1+len(word)/2
	slices.Sort(keys)
	for _, key := range keys {
		d := distance(word, key)
		if len(word) >= 3 && strings.HasPrefix(key, word) {
			d = 1
		}
		if d < fewest {
			best, fewest = key, d
		}
	}
	return best
}

// distance is Levenshtein's: how many letters to insert, delete or replace.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
