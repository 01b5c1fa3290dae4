package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/starlingdeploy/starling/bench/trial"
)

func fleetScenario(env Env) *trial.Scenario {
	c := FleetConfig{}
	s := trial.New("fleet", "One region's servers under a fleet: arrival, rest, a deployment, churn, the leader's death")
	s.Params.IntVar(&c.Machines, "machines", 20_000, "`machines`, all played by this process")
	s.Params.IntVar(&c.Enrol, "enrol", 2_000, "`machines` that enrol, each with a key and a handshake of its own; the rest registers through shared connections")
	s.Params.IntVar(&c.Servers, "servers", 3, "servers: 1, 3 or 5, each a process, fsync on")
	s.Params.IntVar(&c.CellMax, "cell", 0, "most `machines` of a cell (0: the servers' default)")
	s.Params.Float64Var(&c.Churn, "churn", 0.1, "`share` of the machines that end and start again")
	s.Params.DurationVar(&c.Steady, "steady", time.Minute, "`time` for which the steady state is measured")
	folder(s, &c.Dir, env.Temp)
	starlingBinary(s, &c.Bin, env)
	lower := func(name, unit, help string) trial.Metric {
		return trial.Metric{Name: name, Unit: unit, Better: trial.Lower, Help: help}
	}
	s.Metrics = append([]trial.Metric{
		lower("enrol.enrolled_s", "s", "until the machines that enrol had a place"),
		lower("enrol.registered_s", "s", "until the others had"),
		lower("enrol.unanswered", "attempts", "that got no answer"),
		lower("enrol.rss_mb_max", "MB", "of the largest server then"),
		lower("steady.cores", "cores", "of the server that used most"),
		lower("steady.rss_mb", "MB", "of the largest server"),
		lower("steady.connections", "connections", "of relays that wait at the server with most"),
		lower("deployment.staged_s", "s", "from the submission until all machines held it"),
		lower("deployment.healthy_s", "s", "from the approval until it had succeeded"),
		lower("deployment.late_ms", "ms", "that a machine waited at most for the process that plays them"),
		lower("deployment.direct", "polls", "of servers by machines that are no relays"),
		lower("deployment.raft_entries", "entries", "of the Raft log for the deployment"),
		lower("churn.whole_s", "s", "until the leader saw all machines again"),
		lower("leader_kill.leader_s", "s", "until another server led"),
		lower("leader_kill.whole_s", "s", "until that one saw all machines"),
		lower("leader_kill.ended_s", "s", "from the approval until the deployment had succeeded"),
	}, append(quantiles("enrol.ms", "from a machine's first attempt to its place"), quantiles("deployment.told_ms", "from the approval to a machine that has the goal")...)...)
	s.Check = c.Check
	s.Limit = func() time.Duration {
		return 5*time.Minute + c.Steady + time.Duration(c.Enrol)*10*time.Millisecond + time.Duration(c.Machines)*2*time.Millisecond
	}
	s.Run = func(ctx context.Context, tell trial.Progress) (*trial.Outcome, error) {
		c.Tell = tell
		res, err := c.Run(ctx)
		if err != nil {
			return nil, err
		}
		out := &trial.Outcome{Result: res, Notes: []string{
			fmt.Sprintf("%d of %d machines enrolled with a handshake of their own, the rest through shared connections; gossip and calls within cells were in memory", res.Enrol.Enrolled, res.Machines),
		}}
		for _, l := range res.histograms {
			out.Pictures.Histograms = append(out.Pictures.Histograms, latencyHistogram(l.title, l.h))
		}
		return out, nil
	}
	return s
}
