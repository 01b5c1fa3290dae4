package rpc

import (
	"net/url"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
)

func TestFeedCursor(t *testing.T) {
	have := FeedCursor{Index: 1 << 40, Reign: "s1/7", Cell: "us-1", Version: 9}
	got, err := ParseFeedCursor(have.query(time.Second))
	if err != nil || got != have {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := ParseFeedCursor(url.Values{}); err != nil || got != (FeedCursor{}) {
		t.Errorf("nothing asked: %+v, %v", got, err)
	}
	if _, err := ParseFeedCursor(url.Values{"index": {"-1"}}); !starling.IsInvalid(err) {
		t.Errorf("a bad index: %v", err)
	}
}

func TestEditions(t *testing.T) {
	for i, e := range []Edition{{}, {0, 1}, {3, 0}, {3, 2}, {4, 0}} {
		for j, o := range []Edition{{}, {0, 1}, {3, 0}, {3, 2}, {4, 0}} {
			if got, want := e.Compare(o) < 0, i < j; got != want {
				t.Errorf("%v before %v: %t", e, o, got)
			}
		}
	}
	if f := (Feed{Index: 4, Reign: "s/1/77"}); f.Edition() != (Edition{4, 77}) || TermOf("") != 0 || TermOf("s1") != 0 {
		t.Errorf("edition %v", f.Edition())
	}
}
