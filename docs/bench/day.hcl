# A day of deployments for 100,000 machines, simulated, with 50 and with 80 workers, at the load that
# Starling is built for and at twice that. Some minutes.

scenario "day" "50 workers" {
  workers = 50
  loads   = ["2"]
}

scenario "day" "80 workers" {
  workers = 80
  loads   = ["2"]
}
