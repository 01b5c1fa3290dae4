//go:build !race

package enrol_test

const stormMachines = 300
