//go:build !race

package plane

const few = 300 // schedules
