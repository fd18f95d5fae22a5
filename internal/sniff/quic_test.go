package sniff

import (
	"strings"
	"testing"
)

func TestQUICInitial(t *testing.T) {
	t.Parallel()
	// datagram returns a long header, filled up to n bytes.
	datagram := func(n int, header string) string {
		return header + strings.Repeat("\x00", n-len(header))
	}
	const v1 = "\x00\x00\x00\x01"
	id20, id21 := u8(strings.Repeat("i", 20)), u8(strings.Repeat("i", 21))
	for _, row := range []struct {
		name, in string
		want     bool
	}{
		{"version 1", datagram(1200, "\xc3"+v1+u8("12345678")+u8("")), true},
		{"larger", datagram(1452, "\xc0"+v1+u8("12345678")+u8("abc")), true},
		{"version 2", datagram(1200, "\xd0\x6b\x33\x43\xcf"+u8("12345678")+u8("")), true},
		{"draft 29", datagram(1200, "\xc0\xff\x00\x00\x1d"+u8("12345678")+u8("")), true},
		{"greased version", datagram(1200, "\xc0\x1a\x2a\xfa\x0a"+u8("12345678")+u8("")), true},
		{"longest ids", datagram(1200, "\xc0"+v1+id20+id20), true},
		{"one byte short", datagram(1199, "\xc0"+v1+u8("12345678")+u8("")), false},
		{"short header", datagram(1200, "\x40"+v1+u8("12345678")+u8("")), false},
		{"no fixed bit", datagram(1200, "\x80"+v1+u8("12345678")+u8("")), false},
		{"version negotiation", datagram(1200, "\xc0\x00\x00\x00\x00"+u8("12345678")+u8("")), false},
		{"unknown version", datagram(1200, "\xc0\x00\x00\x00\x02"+u8("12345678")+u8("")), false},
		{"nearly a draft", datagram(1200, "\xc0\xff\x00\x01\x1d"+u8("12345678")+u8("")), false},
		{"nearly greased", datagram(1200, "\xc0\x1a\x2a\xfa\x0b"+u8("12345678")+u8("")), false},
		{"long destination id", datagram(1200, "\xc0"+v1+id21+id20), false},
		{"long source id", datagram(1200, "\xc0"+v1+id20+id21), false},
		{"zeros", datagram(1200, ""), false},
		{"empty", "", false},
	} {
		if got := QUICInitial([]byte(row.in)); got != row.want {
			t.Errorf("%s: got %v", row.name, got)
		}
	}
}
