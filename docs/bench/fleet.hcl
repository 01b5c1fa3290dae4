# One region's three servers under machines that one process plays. Nine minutes; one for 100,000 takes about 2 GB and two cores.

scenario "fleet" "20,000 machines" {
  machines = 20000
  enrol    = 2000
  steady   = "60s"
}

scenario "fleet" "100,000 machines" {
  machines = 100000
  enrol    = 2000
  steady   = "60s"
}
