package guest

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestHardwareAddrIsText(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		addr HardwareAddr
		text string
	}{
		{HardwareAddr{2, 0, 0, 0, 0, 7}, `"02:00:00:00:00:07"`},
		{nil, `""`},
	} {
		text, err := json.Marshal(row.addr)
		if err != nil || string(text) != row.text {
			t.Errorf("Marshal(%v) = %s, %v; want %s", row.addr, text, err, row.text)
		}
		var back HardwareAddr
		if err := json.Unmarshal([]byte(row.text), &back); err != nil || back.String() != row.addr.String() {
			t.Errorf("Unmarshal(%s) = %v, %v; want %v", row.text, back, err, row.addr)
		}
	}
	var addr HardwareAddr
	for _, bad := range []string{`"02"`, `"x"`, `7`, `"02:00:00:00:00:07:"`} {
		if err := json.Unmarshal([]byte(bad), &addr); err == nil {
			t.Errorf("Unmarshal(%s) = %v; want an error", bad, addr)
		}
	}
}

func TestExitStatus(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		exit Exit
		want int
	}{{Exit{}, 0}, {Exit{Code: 255}, 255}, {Exit{Code: -1, Signal: 9}, 137}, {Exit{Code: -1, Signal: 64}, 192}} {
		if got := row.exit.Status(); got != row.want {
			t.Errorf("%+v.Status() = %d; want %d", row.exit, got, row.want)
		}
	}
}

func TestPrintable(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ text, want string }{
		{"", ""},
		{"/bin/naïve: not found", "/bin/naïve: not found"},
		{"two\nlines", `"two\nlines"`},
		{"\x1b[31mred", `"\x1b[31mred"`},
		{"not \xff UTF-8", `"not \xff UTF-8"`},
		{"back\u202ewards", `"back\u202ewards"`}, // reorders what follows it
		{"C1 \u009b31m", `"C1 \u009b31m"`},       // an escape sequence's start, too
	} {
		if got := printable(row.text); got != row.want {
			t.Errorf("printable(%q) = %s; want %s", row.text, got, row.want)
		}
	}
}

func TestShortenFitsAReply(t *testing.T) {
	t.Parallel()
	// Six bytes of JSON for each of text is the worst there is.
	m := &message{Kind: kindDone, Error: shorten(strings.Repeat("\x01", 1<<20))}
	var b strings.Builder
	if err := writeMessage(&b, m, maxReply); err != nil {
		t.Error(err)
	}
	if got := shorten("short"); got != "short" {
		t.Errorf("shorten(short) = %q", got)
	}
}

func TestWriteMessageRefusesWhatIsTooLong(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	m := &message{Kind: kindDone, Error: strings.Repeat("a", maxReply)}
	if err := writeMessage(&b, m, maxReply); err == nil || b.Len() != 0 {
		t.Errorf("writeMessage = %v, after %d bytes; want an error, and nothing written", err, b.Len())
	}
}
