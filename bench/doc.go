// Package bench measures Starling by scenario. Each scenario is a Config and a Run
// that returns a result with fixed JSON names, so that figures of two commits compare.
// Scenarios that need processes run them through package world.
//
// Scenarios lists them for package trial, which makes flags, files, repeats, comparisons and
// pages of them. A new one is a function in a file scenario_NAME.go, named in Scenarios: package
// trial's documentation says how it looks, scenario_chunk.go is the least of them. An example file
// for it goes to docs/bench/NAME.hcl.
package bench
