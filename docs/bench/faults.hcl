# What faults cost: the same deployment whole, with a machine killed, with one that starts again, and
# with half of the machines cut off from the others for 30 s. About two minutes, as root.

repeat = 1

scenario "swarm" "whole" {
  machines = 6
  bytes    = "20MB"
  rate     = 100
}

scenario "swarm" "a machine dies" {
  machines = 6
  bytes    = "20MB"
  rate     = 100
  faults   = "kill 1 at 50%"
}

scenario "swarm" "a machine starts again" {
  machines = 6
  bytes    = "20MB"
  rate     = 100
  faults   = "restart 1 at 50%"
}

scenario "swarm" "half are cut off for a while" {
  machines = 6
  bytes    = "20MB"
  rate     = 100
  faults   = "cut 50% at 50% for 30s"
}
