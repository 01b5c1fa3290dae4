package cell

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// feedContext is what a feed is signed in.
const feedContext = "starling/1 feed"

// Signer signs with a node's certificate; *pki.Credentials is one.
type Signer interface {
	SignText(context string, text []byte) []byte
	Chain() [][]byte
}

// Verifier tells who signed a text; *pki.Credentials is one.
type Verifier interface {
	VerifyText(context string, text, signature []byte, chain [][]byte, at time.Time) (starling.Identity, error)
}

// SignFeed returns an rpc.SignedFeed in JSON.
func SignFeed(feed *rpc.Feed, by Signer) (json.RawMessage, error) {
	payload, err := json.Marshal(feed)
	if err != nil {
		return nil, fmt.Errorf("sign feed: %w", err)
	}
	signed, err := json.Marshal(rpc.SignedFeed{Payload: payload, Signature: by.SignText(feedContext, payload), Chain: by.Chain()})
	if err != nil {
		return nil, fmt.Errorf("sign feed: %w", err)
	}
	return signed, nil
}

// OpenFeed returns what SignFeed was given, if a server of that region has signed it.
// ErrForbidden: nobody has who may. ErrCorrupt: it cannot be read.
func OpenFeed(signed json.RawMessage, region string, by Verifier, at time.Time) (*rpc.Feed, error) {
	var s rpc.SignedFeed
	if err := json.Unmarshal(signed, &s); err != nil {
		return nil, fmt.Errorf("signed feed: %w: %w", starling.ErrCorrupt, err)
	}
	id, err := by.VerifyText(feedContext, s.Payload, s.Signature, s.Chain, at)
	if err != nil {
		return nil, fmt.Errorf("signed feed: %w", err)
	}
	if !id.Has(starling.RoleServer) || id.Region != region {
		return nil, fmt.Errorf("signed feed: %s may not tell the machines of region %s their goals: %w", id, region, starling.ErrForbidden)
	}
	var feed rpc.Feed
	if err := json.Unmarshal(s.Payload, &feed); err != nil {
		return nil, fmt.Errorf("signed feed: %w: %w", starling.ErrCorrupt, err)
	}
	if feed.Region != region {
		return nil, fmt.Errorf("signed feed: it is for region %.80q: %w", feed.Region, starling.ErrForbidden)
	}
	return &feed, nil
}
