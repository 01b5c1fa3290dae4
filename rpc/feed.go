package rpc

import (
	"cmp"
	"net/url"
	"strconv"
	"strings"

	"github.com/starlingdeploy/starling"
)

// Edition orders what servers tell machines: by the state's index, and then by the term of
// the leader, which is not in the state.
type Edition struct {
	Index uint64 `json:"i,omitempty"`
	Term  uint64 `json:"t,omitempty"` // 0: nobody was known to lead
}

// Compare returns -1, 0 or 1 as e is older than, the same as or newer than o.
func (e Edition) Compare(o Edition) int {
	return cmp.Or(cmp.Compare(e.Index, o.Index), cmp.Compare(e.Term, o.Term))
}

// Edition returns the feed's place in the order.
func (f *Feed) Edition() Edition { return Edition{f.Index, TermOf(f.Reign)} }

// Edition returns the place in the order of the feed that the caller has.
func (f FeedCursor) Edition() Edition { return Edition{f.Index, TermOf(f.Reign)} }

// TermOf returns the Raft term of a reign, "leader/term", or 0.
func TermOf(reign string) uint64 {
	term, err := strconv.ParseUint(reign[strings.LastIndexByte(reign, '/')+1:], 10, 64)
	if err != nil {
		return 0
	}
	return term
}

// ParseFeedCursor reads what a Client writes. Numbers that cannot be read are field errors.
func ParseFeedCursor(v url.Values) (FeedCursor, error) {
	have := FeedCursor{Reign: v.Get("reign"), Cell: v.Get("cell")}
	for _, f := range []struct {
		name string
		into *uint64
	}{{"index", &have.Index}, {"version", &have.Version}} {
		s := v.Get(f.name)
		if s == "" {
			continue
		}
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			return have, starling.Invalidf(f.name, "%.40q is not a number", s)
		}
		*f.into = n
	}
	return have, nil
}
