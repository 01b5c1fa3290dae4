# How the time to the last machine grows with their number, simulated. Each repeat has a seed
# of its own, the same for all labels. A few seconds.

repeat     = 6
interleave = true

scenario "sim" "100 machines" {
  machines = 100
  bytes    = "20MB"
}

scenario "sim" "200 machines" {
  machines = 200
  bytes    = "20MB"
}
