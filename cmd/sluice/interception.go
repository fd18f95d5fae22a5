package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/pflag"

	m "github.com/sluicenet/sluice/sdk"
)

// interceptionFlags are the flags about TLS and secrets.
type interceptionFlags struct {
	on           bool
	bypass       []string
	ports        []uint
	caCert       string
	caKey        string
	trustHostCAs bool
	secrets      []string
	onViolation  string
}

func (f *interceptionFlags) register(flags *pflag.FlagSet) {
	flagGroup(flags, "TLS and secrets", f.registerFlags)
}

func (f *interceptionFlags) registerFlags(flags *pflag.FlagSet) {
	flags.BoolVar(&f.on, "tls-intercept", false, "read TLS: the guest trusts an authority of this sandbox's own")
	flags.Var((*wordList)(&f.bypass), "tls-bypass", "leave the TLS of `HOST` alone; *.HOST is its subdomains; repeatable")
	flags.UintSliceVar(&f.ports, "tls-port", nil, "read TLS on `PORT` (default 443); repeatable")
	flags.Lookup("tls-port").DefValue = "" // pflag would print an empty list
	flags.StringVar(&f.caCert, "tls-ca-cert", "", "`FILE` with the authority's certificate, instead of a new one")
	flags.StringVar(&f.caKey, "tls-ca-key", "", "`FILE` with the authority's key")
	flags.BoolVar(&f.trustHostCAs, "trust-host-cas", false, "the guest trusts what this host trusts")
	flags.StringArrayVar(&f.secrets, "secret", nil, "`VAR@HOST`[,HOST…]: this shell's value of VAR, for these hosts only; the guest sees a placeholder; repeatable")
	flags.StringVar(&f.onViolation, "on-secret-violation", "", "`ACTION` when a placeholder is on its way elsewhere: block, block-and-log or block-and-terminate (default block-and-log)")
}

// apply adds what the flags say to n.
func (f *interceptionFlags) apply(n *m.NetworkConfig) error {
	if f.on || len(f.bypass) > 0 || len(f.ports) > 0 || f.caCert != "" || f.caKey != "" {
		t := m.TLSConfig{}
		if n.TLS != nil {
			t = *n.TLS
		}
		t.Bypass = append(t.Bypass[:len(t.Bypass):len(t.Bypass)], f.bypass...)
		for _, port := range f.ports {
			if port > 1<<16-1 {
				return fmt.Errorf("--tls-port %d: want a port from 1 to 65535", port)
			}
			t.InterceptedPorts = append(t.InterceptedPorts, uint16(port))
		}
		if (f.caCert == "") != (f.caKey == "") {
			return errors.New("--tls-ca-cert and --tls-ca-key are of one authority; write both, or neither")
		}
		if f.caCert != "" {
			t.CACert, t.CAKey = f.caCert, f.caKey
		}
		if len(t.InterceptedPorts) == 0 {
			t.InterceptedPorts = []uint16{443} // BlockQUIC, if the file has only that, switches nothing on
		}
		n.TLS = &t
	}
	if f.trustHostCAs {
		n.TrustHostCAs = &f.trustHostCAs
	}
	if f.onViolation != "" {
		n.OnSecretViolation = m.ViolationAction(f.onViolation)
	}
	return nil
}

// option returns the option of --secret. Values come from the environment, since
// everybody can read a command line.
func (f *interceptionFlags) option() (m.SandboxOption, error) {
	var entries []m.SecretEntry
	for _, text := range f.secrets {
		name, hosts, ok := strings.Cut(text, "@")
		if !ok || name == "" || hosts == "" {
			return nil, fmt.Errorf("--secret %s: want VAR@HOST[,HOST…]", beforeEqual(text))
		}
		if strings.Contains(name, "=") {
			return nil, fmt.Errorf("--secret %s: a value on the command line can be read by everybody; export %s=… and write --secret %s@%s", beforeEqual(text), beforeEqual(name), beforeEqual(name), hosts)
		}
		value, ok := os.LookupEnv(name)
		if !ok {
			return nil, fmt.Errorf("--secret %s@%s: %s is not set in this shell; export it first", name, hosts, name)
		}
		var o m.SecretEnvOptions
		for host := range strings.SplitSeq(hosts, ",") {
			if strings.HasPrefix(host, "*.") {
				o.AllowHostPatterns = append(o.AllowHostPatterns, host)
			} else {
				o.AllowHosts = append(o.AllowHosts, host)
			}
		}
		entries = append(entries, m.Secret.Env(name, value, o))
	}
	return m.WithSecrets(entries...), nil
}

// beforeEqual returns what stands before an equals sign: a value that was given
// by mistake isn't printed.
func beforeEqual(s string) string {
	before, _, _ := strings.Cut(s, "=")
	return before
}
