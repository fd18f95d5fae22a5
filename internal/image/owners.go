package image

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"os"
)

// Owners maps the ids of an image's files to those they get on the host. A file
// whose id is in no range belongs to the process that unpacks it, without the
// set-id bit that goes with the id; the record has the truth.
type Owners struct {
	UIDs, GIDs []IDRange
}

// An IDRange maps Size ids, from Image on, to the host's from Host on.
type IDRange struct {
	Image, Host, Size uint32
}

// maxID is the largest id; the one above means "none" to system calls.
const maxID = math.MaxUint32 - 1

// DefaultOwners returns what this process may give: for root every id that its
// user namespace has, as it is; for anyone else the image's root is the user.
//
// ownRanges, per platform, returns the ids that root may give.
func DefaultOwners() Owners {
	if os.Geteuid() == 0 {
		return Owners{UIDs: ownRanges("uid"), GIDs: ownRanges("gid")}
	}
	return Owners{
		UIDs: []IDRange{{0, uint32(os.Geteuid()), 1}},
		GIDs: []IDRange{{0, uint32(os.Getegid()), 1}},
	}
}

// everyID is the map that changes nothing.
var everyID = IDRange{0, 0, math.MaxUint32}

// uid returns the host's id for a file's owner, and whether it has one.
func (o *Owners) uid(id uint32) (uint32, bool) { return mapID(o.UIDs, id) }

// gid is uid for the group.
func (o *Owners) gid(id uint32) (uint32, bool) { return mapID(o.GIDs, id) }

func mapID(ranges []IDRange, id uint32) (uint32, bool) {
	for _, r := range ranges {
		if id >= r.Image && id-r.Image < r.Size {
			return r.Host + (id - r.Image), true
		}
	}
	return 0, false
}

// check reports what is wrong with a map.
func (o *Owners) check() error {
	for _, r := range append(o.UIDs[:len(o.UIDs):len(o.UIDs)], o.GIDs...) {
		if r.Size == 0 || uint64(r.Host)+uint64(r.Size) > maxID+1 || uint64(r.Image)+uint64(r.Size) > maxID+1 {
			return fmt.Errorf("map %d ids from %d to %d: ids are 0 to %d", r.Size, r.Image, r.Host, uint32(maxID))
		}
	}
	return nil
}

// rootFormat numbers how roots are laid out. Whoever changes what unpacking an
// image gives changes it, so that roots of older versions are not used.
const rootFormat = 1

// key returns what tells roots of one image apart: 8 hexadecimal digits.
func (o *Owners) key() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %v %v", rootFormat, o.UIDs, o.GIDs))
	return hex.EncodeToString(sum[:4])
}
