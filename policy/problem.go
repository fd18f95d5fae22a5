package policy

import (
	"errors"
	"strconv"
	"strings"
)

// A Problem is one thing that is wrong or doubtful in a configuration. It is an
// error unless Warning is set.
type Problem struct {
	// Field is the path of the field in the user's words, such as
	// Rules[2].Ports[0]; what ParseRule and RuleSpec find is relative to the
	// rule. "" concerns the whole.
	Field string
	// Value is what stands there; "" where no single value is at fault.
	Value string
	// Message says what is wrong, in one clause.
	Message string
	// Fix says what would be right; "" if there is no single answer.
	Fix string
	// Warning reports that the configuration is usable all the same.
	Warning bool
}

// Error returns the problem in one line: field, value, message and fix.
func (p Problem) Error() string {
	var b strings.Builder
	if p.Field != "" {
		b.WriteString(p.Field)
		b.WriteString(": ")
	}
	if p.Value != "" {
		b.WriteString(strconv.Quote(p.Value))
		b.WriteString(": ")
	}
	b.WriteString(p.Message)
	if p.Fix != "" {
		b.WriteString("; ")
		b.WriteString(p.Fix)
	}
	return b.String()
}

// Problems is a list of problems, in the order of the fields.
type Problems []Problem

// Errors returns the problems that are no warnings.
func (ps Problems) Errors() Problems { return ps.filter(false) }

// Warnings returns the problems that are warnings.
func (ps Problems) Warnings() Problems { return ps.filter(true) }

func (ps Problems) filter(warning bool) Problems {
	var out Problems
	for _, p := range ps {
		if p.Warning == warning {
			out = append(out, p)
		}
	}
	return out
}

// Err returns nil if no problem is an error, else an error that joins all that
// are; errors.As finds each Problem in it.
func (ps Problems) Err() error {
	var errs []error
	for _, p := range ps.Errors() {
		errs = append(errs, p)
	}
	return errors.Join(errs...)
}

// under returns the problems with their fields below prefix.
func (ps Problems) under(prefix string) Problems {
	out := make(Problems, len(ps))
	for i, p := range ps {
		switch {
		case p.Field == "":
			p.Field = prefix
		case prefix != "":
			p.Field = prefix + "." + p.Field
		}
		out[i] = p
	}
	return out
}
