package swarm

import "time"

// Record is one Step, for replay.
type Record struct {
	At      time.Duration
	Event   Event
	Effects []Effect
}
