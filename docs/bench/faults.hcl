# What faults cost: the same deployment whole, with a machine killed, and with the cache
# killed. About a minute, as root.

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
