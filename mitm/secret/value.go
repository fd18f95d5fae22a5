package secret

import (
	"fmt"
	"io"
	"log/slog"
)

// redacted is what every way of printing a Value shows.
const redacted = "[redacted]"

// A Value is a secret's text, which prints, marshals and logs as "[redacted]"
// whatever the verb or the encoder. The zero Value is empty.
//
// The text is behind a pointer because fmt doesn't call methods on unexported
// fields: of a Value in one it prints an address.
type Value struct{ text *string }

// NewValue returns the Value of a text.
func NewValue(text string) Value { return Value{&text} }

// Reveal returns the text. It is for the code that puts it on the wire, and for
// the one that hands it to the sandbox's process.
func (v Value) Reveal() string {
	if v.text == nil {
		return ""
	}
	return *v.text
}

// String implements [fmt.Stringer].
func (v Value) String() string { return redacted }

// GoString implements [fmt.GoStringer].
func (v Value) GoString() string { return redacted }

// Format implements [fmt.Formatter]: %x and %d would otherwise get at the text.
func (v Value) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText implements [encoding.TextMarshaler].
func (v Value) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON implements [json.Marshaler].
func (v Value) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// LogValue implements [slog.LogValuer].
func (v Value) LogValue() slog.Value { return slog.StringValue(redacted) }
