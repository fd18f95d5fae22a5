package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	m "github.com/sluicenet/sluice/sdk"
)

// flagFields are the fields of the sdk's configuration that a flag alone can have
// filled: who wrote --dns doesn't know of DNS.Nameservers.
var flagFields = []struct{ field, flag string }{
	{"name", "name"},
	{"WithBackend", "backend"},
	{"WithKernel", "kernel"},
	{"WithBindRootfs", "rootfs"},
	{"WithPullPolicy", "pull"},
	{"WithMounts", "volume"},
	{"WithWorkdir", "workdir"},
	{"WithUser", "user"},
	{"WithHostname", "hostname"},
	{"WithEnv", "env"},
	{"WithLabels", "label"},
	{"WithCPUs", "cpus"},
	{"WithMemory", "memory"},
	{"WithMaxDuration", "max-duration"},
	{"WithIdleTimeout", "idle-timeout"},
	{"WithAddHost", "add-host"},
	{"WithPortBindings", "publish"},
	{"WithSecrets", "secret"},
	{"MaxConnections", "max-connections"},
	{"DenyResponse", "deny-response"},
	{"DNS.Nameservers", "dns"},
	{"IPv4Pool", "ipv4-pool"},
	{"IPv6Pool", "ipv6-pool"},
	{"TLS.InterceptedPorts", "tls-port"},
	{"TLS.Bypass", "tls-bypass"},
	{"TLS.CACert", "tls-ca-cert"},
	{"TLS.CAKey", "tls-ca-key"},
	{"OnSecretViolation", "on-secret-violation"},
}

// flagOf returns the flag that filled a field, "" if none that was given did.
func flagOf(flags *pflag.FlagSet, field string) string {
	for _, f := range flagFields {
		rest, ok := strings.CutPrefix(field, f.field)
		if ok && (rest == "" || rest[0] == '[' || rest[0] == '.') && flags.Changed(f.flag) {
			return f.flag
		}
	}
	return ""
}

// inFlags puts an error about a configuration into the words of the flags that
// described it.
func inFlags(flags *pflag.FlagSet, err error) error {
	var failure *m.Error
	if !errors.As(err, &failure) || len(failure.Problems()) == 0 {
		return err
	}
	file := policyFileOf(flags)
	var lines []string
	for _, p := range failure.Problems() {
		line := *p
		line.Op = ""
		if flag := flagOf(flags, p.Field); flag != "" {
			line.Field, line.Value = "--"+flag, ""
			if p.Value != "" {
				line.Field += " " + strconv.Quote(p.Value)
			}
		} else if place := file.place(p.Field); place != "" {
			line.Field = place
		}
		lines = append(lines, line.Error())
	}
	text := lines[0]
	if len(lines) > 1 {
		text = fmt.Sprintf("%d problems\n\t%s", len(lines), strings.Join(lines, "\n\t"))
	}
	if flags.Changed("policy") && !strings.HasPrefix(text, "--") {
		text = fmt.Sprintf("%s: %s", flags.Lookup("policy").Value, text)
	}
	return errors.New(text)
}
