package bench

import "github.com/starlingdeploy/starling/bench/trial"

// Env is what the scenarios find on this computer.
type Env struct {
	Bin    string // the starling binary
	Temp   string // where data goes
	Memory string // a folder in memory, where there is one
}

// Scenarios lists them, see package trial.
func Scenarios(env Env) trial.Registry {
	with := func(f func(Env) *trial.Scenario) func() *trial.Scenario {
		return func() *trial.Scenario { return f(env) }
	}
	return trial.Registry{with(chunkScenario), with(submitScenario), with(swarmScenario), with(simScenario), with(dayScenario), with(queueScenario), with(fleetScenario)}
}

// starlingBinary adds the parameter that says where the program to measure is.
func starlingBinary(s *trial.Scenario, p *string, env Env) {
	s.Params.StringVar(p, "starling", env.Bin, "the starling `binary`")
	trial.Place(s.Params, "starling")
}

// folder adds the parameter that says where the data goes.
func folder(s *trial.Scenario, p *string, value string) {
	s.Params.StringVar(p, "dir", value, "the `folder` where the data goes")
	trial.Place(s.Params, "dir")
}
