package sniff

import "bytes"

// A firstLine tells requests from everything else, as a forgiving server would:
// blanks and empty lines, a method, a blank, and a line whose last word begins
// with HTTP/ in any case. It errs to the side of a request; whether that is a
// strict one is not its question. Its zero value is ready for the first byte.
type firstLine struct {
	part  linePart
	scan  int // bytes looked at
	blank int // offset of the blank behind the method; valid from partRest on
}

type linePart uint8

const (
	partBlanks linePart = iota // blanks and empty lines before the method
	partMethod
	partRest // from the blank behind the method to the end of the line
	partDone // the line is complete, and a request's
)

// next returns looksText if the first line in b is complete and a request's,
// looksOpaque if no request can begin with b, else undecided.
func (l *firstLine) next(b []byte) look {
	for ; l.part != partDone && l.scan < len(b); l.scan++ {
		c := b[l.scan]
		switch l.part {
		case partBlanks:
			switch {
			case isToken(c):
				l.part = partMethod
			case !isBlank(c) && c != '\n':
				return looksOpaque
			}
		case partMethod:
			switch {
			case isBlank(c):
				l.part, l.blank = partRest, l.scan
			case !isToken(c):
				return looksOpaque
			}
		case partRest:
			i := bytes.IndexByte(b[l.scan:], '\n')
			if i < 0 {
				l.scan = len(b)
				return undecided
			}
			if !endsInVersion(b[l.blank : l.scan+i]) {
				return looksOpaque
			}
			l.part = partDone
		}
	}
	if l.part == partDone {
		return looksText
	}
	return undecided
}

// likeHTTP reports whether b, at whose end the guest closed its side, is like a
// request: some servers take the end of the stream for the end of a line. By
// the contract a prefix of HTTP/2's preface is like one too.
func (l *firstLine) likeHTTP(b []byte) bool {
	switch l.part {
	case partDone:
		return true
	case partRest:
		return endsInVersion(b[l.blank:])
	}
	return len(b) > 0 && len(b) <= len(preface) && string(b) == preface[:len(b)]
}

// endsInVersion reports whether the last word of a line begins with HTTP/ in
// any case. Servers differ in what separates words: the last word is looked for
// behind the last space or tab, and behind every blank after that.
func endsInVersion(line []byte) bool {
	const version = "HTTP/"
	for len(line) > 0 && isBlank(line[len(line)-1]) {
		line = line[:len(line)-1]
	}
	for i := len(line) - 1; i >= 0; i-- {
		if isBlank(line[i]) && len(line)-i > len(version) && equalFold(line[i+1:][:len(version)], version) {
			return true
		}
		if line[i] == ' ' || line[i] == '\t' {
			return false
		}
	}
	return false
}

// isBlank reports whether some server takes c for a blank in a request line:
// RFC 9112, section 3, warns of tab, vertical tab, form feed and bare CR;
// Python's str.split, which its http.server uses, adds 0x1c to 0x1f, 0x85 and
// 0xa0.
func isBlank(c byte) bool {
	switch c {
	case ' ', '\t', '\v', '\f', '\r', 0x1c, 0x1d, 0x1e, 0x1f, 0x85, 0xa0:
		return true
	}
	return false
}
