package control

import (
	"math"
	"net/http"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// CellReport takes a cell's word on itself and tells whether it is news. The answer lacks
// the reign.
func (r *Reign) CellReport(v raftfsm.View, report rpc.CellReport, now time.Time) (rpc.CellReportResponse, bool, error) {
	heard, err := r.cells.record(v, report, now)
	return rpc.CellReportResponse{Seeds: heard.seeds, Whole: heard.whole}, heard.news, err
}

func (s *Server) serveCellReport(w http.ResponseWriter, r *http.Request, c *caller) error {
	var report rpc.CellReport
	if err := decode(r, &report); err != nil {
		return err
	}
	if report.Relay.Name != c.Name {
		return starling.Invalidf("relay.name", "%.80q is not %s, who reports", report.Relay.Name, c.Name)
	}
	res, news, err := c.term.CellReport(s.cfg.FSM.View(), report, c.term.now())
	if err != nil {
		return err
	}
	for i := range report.Apps {
		for _, a := range report.Apps[i].Counts.Distrusted {
			c.term.accuse(a.By, []starling.Distrust{{Node: a.Node, Cache: a.Cache, Reason: a.Reason}})
		}
	}
	if news {
		c.term.poke()
	}
	res.Reign = s.leadership()
	return answer(w, res)
}

// checkCellReport bounds what a cell says of itself, and drops what makes no sense.
func checkCellReport(r *rpc.CellReport, region string) error {
	if len(r.Apps) > rpc.MaxReports {
		return starling.Invalidf("apps", "%d, more than %d", len(r.Apps), rpc.MaxReports)
	}
	r.Alive = r.Alive[:min(len(r.Alive), (starling.MaxCellMachines+7)/8)]
	r.Gossip = clip(r.Gossip, maxGossipAddrBytes)
	for i := range r.Apps {
		a := &r.Apps[i]
		if err := checkCounts(&a.Counts, region); err != nil {
			return err
		}
		if a.Unheard < 0 || !sound(a.Progress) || !sound(a.Fetch) {
			return starling.Invalidf("apps", "a count of %.80q makes no sense", a.App)
		}
		a.Counts.Absent = 0 // not a cell's to say
		if !a.Bytes.Within(maxMachineBytes * starling.MaxCellMachines) {
			a.Bytes = starling.Bytes{} // nonsense must not spoil the sums
		}
		a.Bytes.New, a.Bytes.WAN, a.Bytes.Artifact = 0, 0, 0 // nor these
		for d, n := range a.Held {
			if n < 0 || len(a.Held) > maxHeldPerCell {
				delete(a.Held, d)
			}
		}
	}
	return nil
}

// sound reports whether counts by bucket may be what they say.
func sound(counts []int) bool {
	return len(counts) <= maxBuckets && !slices.ContainsFunc(counts, func(n int) bool { return n < 0 || n > math.MaxInt32 })
}
