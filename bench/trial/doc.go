// Package trial is the frame of every scenario of the bench, whatever it measures: a table
// of scenarios, files of them with repeats, results with intervals, comparison, and a page.
//
// A scenario is one value, and all else follows from it: flags, fields of files, help,
// lists, the figures that are judged. To add one, write a function that returns it, with
// its parameters bound to a Config of its own, and name it in bench.Scenarios:
//
//	func fleetScenario(env Env) *trial.Scenario {
//		var c FleetConfig
//		s := trial.New("fleet", "100,000 light agents against three real servers")
//		s.Params.IntVar(&c.Agents, "agents", 1000, "light agents")
//		s.Params.Uint64Var(&c.Seed, "seed", 1, "of all randomness")
//		trial.BytesVar(s.Params, &c.Bytes, "bytes", 500_000_000, "of the artifact")
//		s.Params.StringVar(&c.Bin, "starling", env.Bin, "the starling binary")
//		trial.Place(s.Params, "starling")
//		s.Metrics = []trial.Metric{
//			{Name: "told_ms.p99", Unit: "ms", Better: trial.Lower, Help: "from a new goal to the agent's knowing"},
//			{Name: "servers.*.rss_mb", Unit: "MB", Better: trial.Lower, Help: "of each server"},
//			{Name: "results[clients].cycles_per_s", Unit: "1/s", Better: trial.Higher, Help: "by number of clients"},
//		}
//		s.Check = c.Check
//		s.Run = func(ctx context.Context, tell trial.Progress) (*trial.Outcome, error) {
//			c.Tell = tell // tell("enrolled", 512, 1000, "agents"): what is under way, and how far
//			res, err := c.Run(ctx)
//			if err != nil {
//				return nil, err
//			}
//			return &trial.Outcome{Result: res, Pictures: res.pictures()}, nil
//		}
//		return s
//	}
//
// Metrics are fields of the result's JSON, by their path. A `word` in backquotes in a
// parameter's usage is its unit or form. A parameter with the name "seed" is raised by one
// with each repeat; without a Limit a parameter "duration" is added, after which the run
// is given up. Pictures (curves, histograms, timelines, maps, bars, tables) are data,
// kept in the result file; the page draws them.
package trial
