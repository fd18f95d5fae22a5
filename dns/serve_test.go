package dns

import "testing"

func TestForward(t *testing.T) {
	t.Parallel()
	up := newAuthority(t, zone("www.example.com. 300 IN A 93.184.1.1", "www.example.com. 300 IN AAAA 2606:2800::1", "alias.example.com. 60 IN CNAME www.example.com."))
	s := newServer(t, Config{Nameservers: []Nameserver{up.nameserver()}})
	for _, tt := range []struct{ question, want string }{
		{"www.example.com A", "NOERROR 93.184.1.1"},
		{"www.example.com AAAA", "NOERROR 2606:2800::1"},
		{"alias.example.com A", "NOERROR www.example.com. 93.184.1.1"},
		{"nothing.example.com A", "NXDOMAIN"},
		{"www.example.com MX", "NOERROR"},
		{"host.docker.internal A", "NOERROR 172.16.0.1"},
	} {
		if got := show(ask(t, s, question(tt.question))); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.question, got, tt.want)
		}
		c := dialTCP(t, s)
		writeTCP(t, c, question(tt.question))
		if got := show(readTCP(t, c)); got != tt.want {
			t.Errorf("%s over TCP: got %q, want %q", tt.question, got, tt.want)
		}
	}
}
