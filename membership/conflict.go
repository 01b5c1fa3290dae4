package membership

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"time"

	"github.com/hashicorp/serf/serf"

	"github.com/starlingdeploy/starling"
)

// How a member finds out that it is one too many. A name that has moved to another
// address is told apart by time: the old one is found dead before the rounds are over.
const (
	whereQuery       = "where" // payload: a name; the answer: the address at which it is alive
	conflictRounds   = 5       // in a row in which the others see the name elsewhere
	conflictPause    = 6 * time.Second
	conflictPauseLAN = 500 * time.Millisecond // with ProfileLocal
	maxWitnesses     = 7                      // members that are asked; their names go into one packet
)

// ErrClone says that another process takes part under the same name.
var ErrClone = fmt.Errorf("the same identity is in use twice: %w", starling.ErrConflict)

// Clone is the error of a machine of which there is another, at an address.
func Clone(name, addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	return fmt.Errorf("another machine answers as %s at %s: if this is a copy of its disk, delete data_dir and enrol it anew: %w", name, host, ErrClone)
}

// Failed returns a channel that is closed when this process must not go on in the pool; see Err.
func (p *Pool) Failed() <-chan struct{} { return p.failed }

// Err says why Failed is closed: ErrClone.
func (p *Pool) Err() error {
	select {
	case <-p.failed:
		return p.failure
	default:
		return nil
	}
}

// noteDouble is told by the gate of a member's name and address; it never waits.
func (p *Pool) noteDouble(m *serf.Member) {
	self := p.self.Load()
	if self == nil || m.Name != p.conf.Node.Name || gossipAddr(m) == *self {
		return
	}
	select {
	case p.doubled <- struct{}{}:
	default:
	}
}

func gossipAddr(m *serf.Member) string {
	return net.JoinHostPort(m.Addr.String(), strconv.Itoa(int(m.Port)))
}

// watchDouble asks others who this process is when somebody else goes by its name, and fails
// the pool if they keep saying that it is the other. With no answers nothing is
// concluded: two members that know nobody else both go on.
func (p *Pool) watchDouble(ctx context.Context) {
	pause := conflictPause
	if p.conf.Profile == ProfileLocal {
		pause = conflictPauseLAN
	}
	lost := 0
	for {
		if lost == 0 {
			select {
			case <-p.doubled:
			case <-ctx.Done():
				return
			}
		}
		other, elsewhere := p.askWitnesses(ctx)
		if lost++; !elsewhere {
			lost = 0
		}
		if lost >= conflictRounds {
			p.failure = Clone(p.conf.Node.Name, other)
			close(p.failed)
			return
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// askWitnesses asks some of the live members where they see this process's name, and reports whether
// most of those that answer see it at another address.
func (p *Pool) askWitnesses(ctx context.Context) (other string, elsewhere bool) {
	var witnesses []string
	members := p.serf.Members()
	for _, i := range rand.Perm(len(members)) {
		if m := members[i]; m.Name != p.conf.Node.Name && stateOf(m.Status) == StateAlive && len(witnesses) < maxWitnesses {
			witnesses = append(witnesses, m.Name)
		}
	}
	if len(witnesses) == 0 {
		return "", false
	}
	res, err := p.serf.Query(whereQuery, []byte(p.conf.Node.Name), &serf.QueryParam{FilterNodes: witnesses})
	if err != nil {
		p.logger.Warn("cannot ask whether another process goes by this one's name", "error", err)
		return "", false
	}
	defer res.Close()
	here, answers := 0, 0
	for answers < len(witnesses) {
		select {
		case r, ok := <-res.ResponseCh():
			if !ok {
				return other, answers > 0 && 2*here < answers
			}
			if answers++; string(r.Payload) == p.addr {
				here++
			} else {
				other = string(r.Payload)
			}
		case <-ctx.Done():
			return "", false
		}
	}
	return other, 2*here < answers
}

// answer serves the question of watchDouble.
func (p *Pool) answer(q *serf.Query) {
	name := string(q.Payload)
	if q.Name != whereQuery || name == p.conf.Node.Name {
		return
	}
	m, ok := p.member(name)
	if !ok || stateOf(m.Status) != StateAlive {
		return
	}
	if err := q.Respond([]byte(gossipAddr(&m))); err != nil {
		p.logger.Debug("answer where a member is", "error", err)
	}
}
