//go:build race

package plane

const few = 40 // schedules; the detector makes them several times as long
