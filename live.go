package starling

import "time"

// DeploymentProgress is how a deployment under way stands at one moment, by the word of
// its home's leader: what GET /v1/events?progress sends beside the committed events.
type DeploymentProgress struct {
	Deployment string    `json:"deployment"`
	App        string    `json:"app"`
	Home       string    `json:"home"`
	Phase      Phase     `json:"phase"`
	PhaseAt    time.Time `json:"phase_at"`
	CreatedAt  time.Time `json:"created_at"`
	Deadline   time.Time `json:"deadline"`
	Attempt    int       `json:"attempt,omitempty"` // builds begun
	Worker     string    `json:"worker,omitempty"`
	Wave       int       `json:"wave"`            // index of the wave under way
	Waves      int       `json:"waves,omitempty"` // how many there are
	Step       string    `json:"step,omitempty"`  // while rolling out, for people: "wave 1 of 3 in eu-west"
	Paused     bool      `json:"paused,omitempty"`
	Reason     string    `json:"reason,omitempty"` // once it has failed or was cancelled
	Machines   Counts    `json:"machines"`
	Bytes      Bytes     `json:"bytes"`
	// LeftMS is how long the present phase will take from now on if it goes on as it has
	// since it began, in milliseconds; 0: not known, or nothing is left.
	LeftMS int64 `json:"left_ms,omitempty"`
	// EndsAt is when it will have ended if what is left of its phase goes on as it has, and
	// the stages after it take as long as in recent deployments. Zero: there is nothing to
	// judge by, it waits for people, or a stage whose rate is unknown takes longer than those
	// before did.
	EndsAt time.Time `json:"ends_at,omitzero"`
	// Regions are in the events of a watcher who asks for one deployment, sorted by name.
	Regions []RegionProgress `json:"regions,omitempty"`
	At      time.Time        `json:"at"` // by the leader's clock
}

// RegionProgress is one region's part in a deployment under way.
type RegionProgress struct {
	Placing
	Heard bool `json:"heard"` // it has reported to this leader; else only Placing is known
	// SilentMS is how long ago its last report came, in whole seconds; 0: less than ten
	// seconds ago.
	SilentMS int64    `json:"silent_ms,omitempty"`
	Target   int      `json:"target"`
	Staged   int      `json:"staged"` // hold the artifact
	Due      int      `json:"due"`    // are to activate by now
	Healthy  int      `json:"healthy"`
	Failed   int      `json:"failed"`
	Absent   int      `json:"absent"`
	Bytes    Bytes    `json:"bytes"`
	Progress Progress `json:"progress,omitempty"` // its machines by the share that they hold
}

// Left estimates how long the phase will take from p.At on: as long as what is done took,
// for what is left. 0: not known, or nothing is left.
func (p *DeploymentProgress) Left() time.Duration {
	done, total := 0, 0
	switch p.Phase {
	case PhaseReplicating:
		for i := range p.Regions {
			done, total = done+p.Regions[i].ChunksDone, total+p.Regions[i].ChunksTotal
		}
	case PhaseStaging:
		done, total = p.stagingShare()
	case PhaseRollingOut:
		done, total = p.Machines.Healthy+p.Machines.Failed, p.Machines.Target
	}
	if done <= 0 || total <= done || p.At.Before(p.PhaseAt) {
		return 0
	}
	took := p.At.Sub(p.PhaseAt)
	return time.Duration(float64(took) * float64(total-done) / float64(done))
}

// stagingShare counts in hundredths of machines: one that holds half counts half.
func (p *DeploymentProgress) stagingShare() (done, total int) {
	done, total = 100*(p.Machines.Staged+p.Machines.Failed), 100*p.Machines.Target
	byShare := 0
	for i := range p.Regions {
		steps := len(p.Regions[i].Progress) - 1
		for j, n := range p.Regions[i].Progress {
			if steps > 0 {
				byShare += 100 * n * j / steps
			}
		}
	}
	return max(done, min(byShare, total)), total
}
