package mitm

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestRequest(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name  string
		http2 bool
		url   string
		want  string
	}{
		{"HTTP/1 over TLS", false, "https://" + site + "/a?b=c", "HTTP/1.1 POST " + site + " /a?b=c body"},
		{"HTTP/2 over TLS", true, "https://" + site + "/a?b=c", "HTTP/2.0 POST " + site + " /a?b=c body"},
		{"plain HTTP/1", false, "http://" + site + "/a?b=c", "HTTP/1.1 POST " + site + " /a?b=c body"},
		{"plain HTTP/2", true, "http://" + site + "/a?b=c", "HTTP/2.0 POST " + site + " /a?b=c body"},
		{"a path that begins with two slashes", false, "https://" + site + "//x/y?", "HTTP/1.1 POST " + site + " //x/y? body"},
		{"and over HTTP/2", true, "https://" + site + "//x/y", "HTTP/2.0 POST " + site + " //x/y body"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Config{})
			w.serveTLS(http.HandlerFunc(hello), nil)
			w.servePlain(http.HandlerFunc(hello))
			res, err := w.client(row.http2).Post(row.url, "text/plain", strings.NewReader("body"))
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			if err != nil || string(body) != row.want || res.StatusCode != 200 {
				t.Errorf("got %d %q, %v; want %q", res.StatusCode, body, err, row.want)
			}
			w.waitFor(EventRequest)
		})
	}
}
