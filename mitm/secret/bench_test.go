package secret

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

// bodies are what is searched mostly: without a hit, in different alphabets.
func bodies() map[string][]byte {
	rnd := rand.New(rand.NewPCG(5, 6))
	const size = 1 << 20
	text := make([]byte, 0, size)
	words := strings.Fields(`the of and to in is that it was for on are as with his they at be this from have or by one had not but what all were when we there can an your which their said if do will each about how up out them then she many some so these would other into has more her two like him see time could no make than first been its who now people my made over did down only way find use may water long little very after words called just where most know`)
	var object bytes.Buffer
	for len(text) < size {
		text = append(append(text, words[rnd.IntN(len(words))]...), ' ')
	}
	for object.Len() < size {
		fmt.Fprintf(&object, `{"id":%d,"name":"%s %s","url":"https:\/\/example.com\/%x?q=%%20a%%2Fb","note":"\u4e2d\u6587 \"%s\"","price":"$%d.99"},`,
			rnd.Uint32(), words[rnd.IntN(len(words))], words[rnd.IntN(len(words))], rnd.Uint64(), words[rnd.IntN(len(words))], rnd.IntN(100))
	}
	return map[string][]byte{
		"text": text[:size], "json": object.Bytes()[:size], "random": randomBytes(rnd, size), "zeros": make([]byte, size),
		"chinese": []byte(strings.Repeat(`\u4e2d\u6587\u5b57\u7b26`, size/24)),
		"base64":  []byte(randomBase64(rnd, size)),
	}
}

func randomBase64(rnd *rand.Rand, n int) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	b := make([]byte, n)
	for i := range b {
		b[i] = alphabet[rnd.IntN(len(alphabet))]
	}
	return string(b)
}

// manySecrets returns secrets as services issue them.
func manySecrets(n int) []Secret {
	rnd := rand.New(rand.NewPCG(7, 8))
	var list []Secret
	for i := range n {
		prefix := []string{"ghp_", "sk-proj-", "xoxb-", "AKIA", "glpat-"}[i%5]
		list = append(list, Secret{EnvVar: fmt.Sprintf("KEY_%d", i), Value: NewValue(prefix + randomBase64(rnd, 36)), AllowHosts: []string{"api.example.com"}, InjectBody: true})
	}
	return list
}

func BenchmarkFind(b *testing.B) {
	for name, body := range bodies() {
		for _, n := range []int{1, 5} {
			set := newSet(b, manySecrets(n)...)
			v := set.current.Load()
			for side, m := range map[string]*matcher{"placeholders": v.placeholders, "values": v.scope("api.example.com").values.matcher} {
				b.Run(fmt.Sprintf("%s/%s/%d", side, name, n), func(b *testing.B) {
					b.SetBytes(int64(len(body)))
					b.ReportAllocs()
					for b.Loop() {
						if h, ok := m.find(body, 0, true); ok {
							b.Fatalf("found %+v", h)
						}
					}
				})
			}
		}
	}
}

func BenchmarkResponseBody(b *testing.B) {
	body := bodies()["json"]
	set := newSet(b, manySecrets(3)...)
	buf := make([]byte, 32<<10)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		r := set.Request(Destination{"api.example.com", ProofTLS})
		p := r.Response(200, map[string][]string{"Content-Type": {"application/json"}})
		if _, err := io.CopyBuffer(onlyWriter{io.Discard}, p.Body(bytes.NewReader(body)), buf); err != nil {
			b.Fatal(err)
		}
	}
}

// An onlyWriter hides io.ReaderFrom.
type onlyWriter struct{ io.Writer }

func BenchmarkHead(b *testing.B) {
	set := newSet(b, manySecrets(3)...)
	header := map[string][]string{
		"User-Agent": {"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"}, "Accept": {"text/html,application/xhtml+xml,*/*;q=0.8"},
		"Accept-Language": {"en-US,en;q=0.5"}, "Cookie": {"session=0123456789abcdef; theme=dark"}, "Content-Type": {"application/json"},
		"Authorization": {"Basic dXNlcjpwYXNzd29yZA=="}, "Cache-Control": {"no-cache"}, "X-Request-Id": {"9d2c1d6e-7c0f-4a66-bd1a-1f0e6a6c0b9e"},
	}
	b.ReportAllocs()
	for b.Loop() {
		r := set.Request(Destination{"other.example.com", ProofTLS})
		if err := r.Head(&Head{Method: "POST", Scheme: "https", Authority: "other.example.com", Path: "/v1/things/12345", Query: "page=2&per_page=100", Header: header}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPut is the rotation of one secret among five, up to the next request.
func BenchmarkPut(b *testing.B) {
	set := newSet(b, manySecrets(5)...)
	n := 0
	for b.Loop() {
		n++
		if _, err := set.Put("KEY_1", NewValue(fmt.Sprintf("value number %d", n))); err != nil {
			b.Fatal(err)
		}
		set.Request(Destination{"api.example.com", ProofTLS})
	}
}
