# Half a minute of killed and stopped processes in two regions, as root. It fails if a
# promise was broken.

scenario "chaos" {
  duration = "30s"
  faults   = "kill,stop"
  seed     = 7
}
