package policy

type recorder struct{}

func (*recorder) note(i int, yes, late bool, why why) {}

type why uint8

const (
	whyDirection why = iota
	whyProtocol
	whyPort
	whyAny
	whyGroup
	whyPrefix
	whyName
	whyMalformed
)
