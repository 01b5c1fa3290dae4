# How soon a submission is acknowledged, by one server and by three. About a minute.

repeat     = 1
interleave = true

scenario "submit" "one server" {
  servers = 1
  count   = 50
}

scenario "submit" "three servers" {
  servers = 3
  count   = 50
}
