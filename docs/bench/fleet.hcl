# One region's three servers under 20,000 machines that one process plays. About five minutes.

scenario "fleet" "20,000 machines" {
  machines = 20000
  enrol    = 2000
  steady   = "60s"
}
