package sdk

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// parseDetachKeys reads keys as docker writes them: single characters, and
// ctrl- before a letter or one of @ [ \ ] ^ _, with commas in between. "" is none.
func parseDetachKeys(text string) ([]byte, error) {
	if text == "" {
		return nil, nil
	}
	var keys []byte
	for part := range strings.SplitSeq(text, ",") {
		letter, control := strings.CutPrefix(part, "ctrl-")
		if len(letter) != 1 {
			return nil, fmt.Errorf("%q: no key", part)
		}
		b := letter[0]
		if control {
			switch {
			case 'a' <= b && b <= 'z':
				b -= 'a' - 1
			case '@' <= b && b <= '_':
				b -= '@'
			default:
				return nil, fmt.Errorf("%q: no control key", part)
			}
		}
		keys = append(keys, b)
	}
	return keys, nil
}

// errDetached says that the user has left the terminal.
var errDetached = errors.New("detached")

// A detachFilter finds the keys that leave a terminal in what is typed. What may
// be their beginning is held back until the next key.
type detachFilter struct {
	keys []byte // none: nothing is found
	held int    // how many of keys were typed last
}

// pass returns what of p, and of what was held, goes on to the command. The error
// is errDetached once all keys were typed, in their order.
func (f *detachFilter) pass(p []byte) ([]byte, error) {
	if len(f.keys) == 0 {
		return p, nil
	}
	text := append(bytes.Clone(f.keys[:f.held]), p...)
	if i := bytes.Index(text, f.keys); i >= 0 {
		f.held = 0
		return text[:i], errDetached
	}
	// The longest beginning of the keys that the text ends with.
	for f.held = min(len(f.keys)-1, len(text)); !bytes.HasSuffix(text, f.keys[:f.held]); f.held-- {
	}
	return text[:len(text)-f.held], nil
}
