package mitm

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
)

// A complaint says in words what is wrong with a leg of a connection and what
// would help: for the event, and for the page that the guest sees.
type complaint struct {
	reason string
	fix    string // "" if nothing would
}

// Alerts of TLS, RFC 8446 section 6.
const (
	alertHandshakeFailure    = tls.AlertError(40)
	alertBadCertificate      = tls.AlertError(42)
	alertUnknownCertificate  = tls.AlertError(46)
	alertUnknownCA           = tls.AlertError(48)
	alertProtocolVersion     = tls.AlertError(70)
	alertCertificateRequired = tls.AlertError(116)
	alertNoApplication       = tls.AlertError(120)
)

// errTooManyLeaves is the error of a guest that shows more new names than
// certificates may be made for.
var errTooManyLeaves = errors.New("too many new certificates")

// fromPeer reports whether err is an alert that the peer sent, one of those given.
// crypto/tls has no exported type for it: the text is the one of its AlertError.
func fromPeer(err error, alerts ...tls.AlertError) bool {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" || op.Err == nil {
		return false
	}
	for _, a := range alerts {
		if op.Err.Error() == a.Error() {
			return true
		}
	}
	return false
}

// guestComplaint explains why a handshake with the guest failed.
func guestComplaint(name string, err error) complaint {
	const bypass = "make the guest's program use the system's certificates, or set Bypass"
	switch {
	case errors.Is(err, errTooManyLeaves):
		return complaint{"too many new names at once", "raise Limits.LeavesPerSecond if the guest is honest"}
	case fromPeer(err, alertUnknownCA, alertBadCertificate, alertUnknownCertificate):
		return complaint{"the guest's program doesn't trust the sandbox's CA", fmt.Sprintf("%s: [%q]", bypass, name)}
	case errors.Is(err, os.ErrDeadlineExceeded), isTimeout(err):
		return complaint{"the guest didn't finish the handshake in time", ""}
	case hungUp(err) && !isAlert(err):
		return complaint{"the guest hung up before its first request", fmt.Sprintf("if its program doesn't trust the sandbox's CA, %s: [%q]", bypass, name)}
	}
	return complaint{"no handshake with the guest: " + err.Error(), fmt.Sprintf("if its program pins certificates, set Bypass: [%q]", name)}
}

// upstreamComplaint explains why a handshake with the server of a name failed.
// asked says that the server wanted a certificate of its client's: over TLS 1.3 it
// says only after the handshake that it insists, and then net/http may have lost
// its words.
func upstreamComplaint(name string, asked bool, err error) complaint {
	var (
		unknown  x509.UnknownAuthorityError
		wrong    x509.HostnameError
		invalid  x509.CertificateInvalidError
		insecure x509.ConstraintViolationError
		checked  *tls.CertificateVerificationError
		record   tls.RecordHeaderError
	)
	scoped := fmt.Sprintf("or ScopedVerifyUpstream {%q, false} to trust it unseen", name)
	switch {
	case errors.As(err, &wrong):
		return complaint{"the server's certificate isn't for " + name, scoped[len("or "):]}
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return complaint{"the server's certificate has expired or isn't valid yet", scoped[len("or "):]}
	case errors.As(err, &unknown):
		return complaint{"the server's certificate is signed by nobody the host trusts", "add its issuer to UpstreamCACerts, " + scoped}
	case errors.As(err, &invalid), errors.As(err, &insecure), errors.As(err, &checked):
		return complaint{"the server's certificate isn't valid: " + err.Error(), scoped[len("or "):]}
	case isTimeout(err):
		return complaint{"the server didn't finish the TLS handshake in time", ""}
	case asked, fromPeer(err, alertCertificateRequired):
		return complaint{"the server wants a client certificate, which interception can't show", fmt.Sprintf("set Bypass: [%q]", name)}
	case errors.As(err, &record):
		return complaint{"the server doesn't speak TLS", ""}
	case fromPeer(err, alertNoApplication):
		return complaint{"the server speaks none of the protocols that the guest offers", ""}
	case fromPeer(err, alertProtocolVersion, alertHandshakeFailure):
		return complaint{"the server and sluice have no TLS version or cipher suite in common", fmt.Sprintf("set Bypass: [%q] if the guest's program knows older ones", name)}
	}
	return complaint{"no TLS with the server: " + err.Error(), ""}
}

// hungUp reports whether err says that the peer has gone, with an alert or without.
func hungUp(err error) bool {
	return isAlert(err) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)
}

// isAlert reports whether err is an alert that the peer sent.
func isAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}
