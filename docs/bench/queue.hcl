# Job cycles a second, by the number of clients. About half a minute.

scenario "queue" {
  clients  = [1, 16, 64]
  duration = "3s"
}
