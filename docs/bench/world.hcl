# 10 GB to 100,000 machines in ten regions of eight cells, simulated: without faults, and with
# 1 % of the machines at a tenth of the speed and 1 % dying in the middle. Many minutes of two
# cores each; `sample = 1` makes it an eighth: one cell of each region.

scenario "sim" "sound" {
  bytes    = "10GB"
  machines = 100000
  regions  = 10
  duration = "2h"
}

scenario "sim" "faults" {
  bytes    = "10GB"
  machines = 100000
  regions  = 10
  slow     = "1%"
  dying    = "1%"
  duration = "2h"
}
