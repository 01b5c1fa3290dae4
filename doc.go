// Package starling is the domain of Starling, a system that takes a commit,
// builds it, and has it running on a fleet of machines in several regions.
//
// It holds the words that every other package speaks (App, Deployment, Goal,
// Manifest, Node, Report) and the rules that need no I/O: validation, the legal
// phase transitions, the order of generations, which machine a goal selects.
// It imports the standard library only.
package starling
