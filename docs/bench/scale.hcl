# How the time to the last machine grows with machines, bytes and regions, simulated. About
# half a minute of one core.

scenario "sim" "100 machines" {
  machines = 100
  bytes    = "100MB"
}

scenario "sim" "1,000 machines" {
  machines = 1000
  bytes    = "100MB"
}

scenario "sim" "4,000 machines" {
  machines = 4000
  bytes    = "100MB"
}

scenario "sim" "1,000 machines, 400 MB" {
  machines = 1000
  bytes    = "400MB"
}

scenario "sim" "three regions of 1,000" {
  machines = 3000
  regions  = 3
  bytes    = "100MB"
}

scenario "sim" "six regions of 1,000" {
  machines = 6000
  regions  = 6
  bytes    = "100MB"
}
