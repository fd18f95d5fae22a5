package guest

import (
	"crypto/sha1"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"strings"
)

// subjectHash returns the number by which OpenSSL finds a certificate in a
// directory: X509_NAME_hash(3), of the subject in its canonical encoding
// (crypto/x509/x_name.c). There, strings are UTF8String, in lower case, with
// single spaces and none at the ends, and the outer SEQUENCE has no header.
func subjectHash(c *x509.Certificate) (uint32, error) {
	var sets []asn1.RawValue
	if rest, err := asn1.Unmarshal(c.RawSubject, &sets); err != nil || len(rest) > 0 {
		return 0, errors.Join(err, errors.New("malformed subject"))
	}
	var canonical []byte
	for _, set := range sets {
		type attribute struct {
			Type  asn1.ObjectIdentifier
			Value asn1.RawValue
		}
		var a attribute
		if rest, err := asn1.Unmarshal(set.Bytes, &a); err != nil || len(rest) > 0 {
			return 0, errors.Join(err, errors.New("a name of several values"))
		}
		switch a.Value.Tag {
		case asn1.TagUTF8String, asn1.TagPrintableString, asn1.TagIA5String: // of one byte a character, or UTF-8
			text := strings.Join(strings.FieldsFunc(string(a.Value.Bytes), isSpace), " ")
			a.Value = asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte(lowerASCII(text))}
		default:
			return 0, errors.New("a string of a rare kind")
		}
		text, err := asn1.Marshal([]attribute{a})
		if err != nil {
			return 0, err
		}
		var inner asn1.RawValue
		if _, err := asn1.Unmarshal(text, &inner); err != nil {
			return 0, err
		}
		inner.Tag = asn1.TagSet
		inner.FullBytes = nil
		if text, err = asn1.Marshal(inner); err != nil {
			return 0, err
		}
		canonical = append(canonical, text...)
	}
	sum := sha1.Sum(canonical)
	return binary.LittleEndian.Uint32(sum[:4]), nil
}

// isSpace reports whether r is what OpenSSL calls white space.
func isSpace(r rune) bool { return strings.ContainsRune(" \t\n\v\f\r", r) }

// lowerASCII lowers the letters of ASCII alone.
func lowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}
