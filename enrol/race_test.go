//go:build race

package enrol_test

// stormMachines are fewer where each handshake costs ten times as much.
const stormMachines = 100
