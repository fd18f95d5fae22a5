package secret

import (
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// byteForms returns the ways to write one byte in a spelling, itself among them.
func byteForms(c byte, s Spelling) []string {
	forms := []string{string([]byte{c})}
	switch s {
	case Percent:
		forms = append(forms, cases(fmt.Sprintf("%%%02x", c))...)
		if c == ' ' {
			forms = append(forms, "+")
		}
	case JSON:
		if i := strings.IndexByte(shortMeanings, c); i >= 0 {
			forms = append(forms, `\`+shortEscapes[i:i+1])
		}
		if c < utf8.RuneSelf {
			forms = append(forms, runeForms(rune(c))...)
		}
	}
	return forms
}

// runeForms returns the ways to escape a character in JSON.
func runeForms(r rune) []string {
	if high, low := utf16.EncodeRune(r); high != utf8.RuneError {
		return cases(fmt.Sprintf(`\u%04x\u%04x`, high, low))
	}
	return cases(fmt.Sprintf(`\u%04x`, r))
}

// cases returns a form with each hexadecimal letter in either case. The "u" of
// \u is none.
func cases(form string) []string {
	forms := []string{""}
	for i := range len(form) {
		c := form[i]
		for j, f := range forms {
			if 'a' <= c && c <= 'f' {
				forms = append(forms, f+string(c-'a'+'A'))
			}
			forms[j] = f + string(c)
		}
	}
	return forms
}
