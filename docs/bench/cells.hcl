# Whether an agent costs what its cell costs, and not what its region does: real agents in cells of
# one size in regions of three, and twice that cell size. About 20 minutes, as root; 200 agents take 7 GB.

repeat = 1

scenario "swarm" "50 machines, cells of 25" {
  machines  = 50
  cell-size = 25
  bytes     = "2MB"
  rest      = "190s"
}

scenario "swarm" "100 machines, cells of 25" {
  machines  = 100
  cell-size = 25
  bytes     = "2MB"
  rest      = "190s"
}

scenario "swarm" "200 machines, cells of 25" {
  machines  = 200
  cell-size = 25
  bytes     = "2MB"
  rest      = "190s"
}

scenario "swarm" "100 machines, cells of 50" {
  machines  = 100
  cell-size = 50
  bytes     = "2MB"
  rest      = "190s"
}
