# Two versions of starling beside each other, in turns, so that whatever else the computer
# does befalls both alike. Build the old one first, for instance:
#
#   git worktree add /tmp/old v1.0 && make -C /tmp/old build
#
# Then: starling-bench run versions.hcl --out versions.json
#       starling-bench compare versions.json#old versions.json#new

repeat     = 6
warmup     = 1
interleave = true

scenario "swarm" "old" {
  starling = "/tmp/old/bin/starling"
  machines = 4
  bytes    = "20MB"
}

scenario "swarm" "new" {
  machines = 4
  bytes    = "20MB"
}
