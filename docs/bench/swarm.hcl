# One small artifact to four and to eight machines over links of 200 Mbit/s, in turns. About
# two minutes, as root; without, take rate away.

repeat     = 6
interleave = true
seed       = 7

scenario "swarm" "4 machines" {
  machines = 4
  bytes    = "20MB"
  rate     = 200
}

scenario "swarm" "8 machines" {
  machines = 8
  bytes    = "20MB"
  rate     = 200
}
