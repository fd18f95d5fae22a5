package hv

import (
	"errors"
	"strings"
)

// HelpFor returns the command or setting that would help against err; "" if none is
// known. An error of a backend's tells by a method Help, which returns it.
func HelpFor(err error) string {
	var helper interface {
		error
		Help() string
	}
	if errors.As(err, &helper) {
		return helper.Help()
	}
	return ""
}

// ReportOf returns the report of a backend that can start no guest because of err.
func ReportOf(err error) Report {
	return Report{Reason: strings.ReplaceAll(err.Error(), "\n", "; "), Fix: HelpFor(err)}
}
