package guest

import (
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"unicode/utf16"
)

// Java's own format of trust stores, JKS, which every version reads: the default
// of a cacerts file, and taken for one that was PKCS #12 before. All numbers are
// big-endian.
const (
	keystoreMagic   = 0xfeedfeed
	keystoreVersion = 2
	keystoreTrusted = 2 // the tag of an entry that is a certificate
	// keystorePassword is that of every cacerts file. It guards nothing but the
	// file's integrity.
	keystorePassword = "changeit"
	// maxKeystore bounds a file in bytes, ten times a distribution's.
	maxKeystore = 4 << 20
)

// javaStores are patterns of where Java's trust stores are. Many are links to
// one.
var javaStores = []string{
	"/etc/ssl/certs/java/cacerts", "/etc/pki/java/cacerts", "/etc/pki/ca-trust/extracted/java/cacerts",
	"/usr/lib/jvm/*/lib/security/cacerts", "/usr/lib/jvm/*/jre/lib/security/cacerts",
	"/usr/local/*/lib/security/cacerts", "/opt/*/lib/security/cacerts", "/opt/*/*/lib/security/cacerts",
}

// JavaStores returns patterns, as filepath.Glob takes them, of where Java's trust
// stores are. They are changed where they can be written, as TrustFiles are.
func JavaStores() []string { return slices.Clone(javaStores) }

// addToJava adds the CA to Java's trust stores.
func (t *trust) addToJava(home string) {
	patterns := slices.Clone(javaStores)
	if filepath.IsAbs(home) {
		patterns = append(patterns, filepath.Join(home, "lib/security/cacerts"))
	}
	done := make(map[string]bool)
	for _, pattern := range patterns {
		found, err := filepath.Glob(t.root + pattern)
		if err != nil {
			continue // JAVA_HOME is no pattern that can be
		}
		for _, path := range found {
			real, err := filepath.EvalSymlinks(path)
			if err != nil || done[real] {
				continue
			}
			done[real] = true
			if err := t.addToStore(real); err != nil {
				t.warn("Java programs that use %s don't trust the sandbox's CA: %v", real[len(t.root):], err)
			}
		}
	}
}

// addToStore adds the CA to one store. One in PKCS #12 is replaced by one of the
// certificates that the guest trusts elsewhere.
func (t *trust) addToStore(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeystore+1))
	f.Close()
	if err != nil {
		return err
	}
	certificates, err := parseKeystore(text)
	if errors.Is(err, errNotKeystore) {
		var bundle []byte
		bundle, err = os.ReadFile(t.root + t.bundle)
		certificates = derOf(bundle)
	}
	if err != nil {
		return err
	}
	for _, c := range t.certificates {
		if !slices.ContainsFunc(certificates, func(der []byte) bool { return bytes.Equal(der, c.Raw) }) {
			certificates = append(certificates, c.Raw)
		}
	}
	return writeInPlace(path, encodeKeystore(certificates))
}

// derOf returns the certificates in a PEM file.
func derOf(text []byte) [][]byte {
	var der [][]byte
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			der = append(der, block.Bytes)
		}
	}
	return der
}

// errNotKeystore is matched by the error about a file in another format.
var errNotKeystore = errors.New("not a Java key store")

// parseKeystore returns the certificates in a trust store. Entries that are keys
// make it an error: writing it again would lose them.
func parseKeystore(text []byte) ([][]byte, error) {
	if len(text) > maxKeystore {
		return nil, fmt.Errorf("key store of more than %d bytes", maxKeystore)
	}
	r := keystoreReader{text}
	if magic, ok := r.number(); !ok || magic != keystoreMagic {
		return nil, errNotKeystore
	}
	version, ok := r.number()
	count, ok2 := r.number()
	if !ok || !ok2 || version != keystoreVersion {
		return nil, fmt.Errorf("key store of version %d", version)
	}
	var all [][]byte
	for range count {
		tag, _ := r.number()
		if tag != keystoreTrusted {
			return nil, fmt.Errorf("key store with an entry of type %d", tag)
		}
		_, ok := r.short()     // its name
		_, ok2 := r.take(8)    // when it was made
		kind, ok3 := r.short() // of certificate
		der, ok4 := r.long()
		if !ok || !ok2 || !ok3 || !ok4 {
			return nil, errors.New("key store is cut off")
		}
		if string(kind) == "X.509" {
			all = append(all, der)
		}
	}
	if len(r.rest) != sha1.Size {
		return nil, errors.New("key store without its checksum")
	}
	return all, nil
}

// A keystoreReader reads the parts of a key store.
type keystoreReader struct{ rest []byte }

// take reads n bytes.
func (r *keystoreReader) take(n uint32) ([]byte, bool) {
	if uint64(n) > uint64(len(r.rest)) {
		return nil, false
	}
	part := r.rest[:n]
	r.rest = r.rest[n:]
	return part, true
}

// number reads a number of 32 bits.
func (r *keystoreReader) number() (uint32, bool) {
	b, ok := r.take(4)
	if !ok {
		return 0, false
	}
	return binary.BigEndian.Uint32(b), true
}

// short reads bytes behind their length of 16 bits.
func (r *keystoreReader) short() ([]byte, bool) {
	b, ok := r.take(2)
	if !ok {
		return nil, false
	}
	return r.take(uint32(binary.BigEndian.Uint16(b)))
}

// long reads bytes behind their length of 32 bits.
func (r *keystoreReader) long() ([]byte, bool) {
	n, ok := r.number()
	if !ok {
		return nil, false
	}
	return r.take(n)
}

// encodeKeystore returns a trust store with these certificates.
func encodeKeystore(certificates [][]byte) []byte {
	be := binary.BigEndian
	out := be.AppendUint32(nil, keystoreMagic)
	out = be.AppendUint32(out, keystoreVersion)
	out = be.AppendUint32(out, uint32(len(certificates)))
	for i, der := range certificates {
		out = be.AppendUint32(out, keystoreTrusted)
		out = appendShort(out, fmt.Sprintf("certificate-%d", i))
		out = be.AppendUint64(out, 0)
		out = appendShort(out, "X.509")
		out = be.AppendUint32(out, uint32(len(der)))
		out = append(out, der...)
	}
	sum := keystoreHash(keystorePassword)
	sum.Write(out)
	return sum.Sum(out)
}

// appendShort appends text behind its length of 16 bits.
func appendShort(out []byte, text string) []byte {
	return append(binary.BigEndian.AppendUint16(out, uint16(len(text))), text...)
}

// keystoreHash returns the hash that a key store ends with, which is keyed by the
// password and by a phrase of its authors'.
func keystoreHash(password string) hash.Hash {
	h := sha1.New()
	for _, unit := range utf16.Encode([]rune(password)) {
		h.Write([]byte{byte(unit >> 8), byte(unit)})
	}
	h.Write([]byte("Mighty Aphrodite"))
	return h
}
