# How fast content is cut and hashed, by size. About half a minute.

repeat     = 6
warmup     = 1
interleave = true

scenario "chunk" "64 MB" {
  bytes = "64MB"
}

scenario "chunk" "256 MB" {
  bytes = "256MB"
}
