// Package bench measures Starling by scenario. Each scenario is a Config and a Run
// that returns a result with fixed JSON names, so that figures of two commits compare.
// Scenarios that need processes run them through package world.
package bench
