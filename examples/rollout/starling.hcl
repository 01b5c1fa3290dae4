# How a release rolls out, with every field of the strategy: docs/rollout.md says what each does.
app "shop" {
  source {
    git    = "https://git.example/shop.git"
    branch = "main"
  }
  build {
    command = ["make", "dist"]
    output  = "dist"
  }
  deploy {
    targets  = "role == web"
    run      = ["./shop"]
    deadline = "4h"
    health {
      http     = "http://127.0.0.1:$PORT/healthz"
      deadline = "2m"
    }
    strategy {
      gate              = "all_regions"
      waves             = ["1%", "10%", "100%"]
      regions           = [["eu-west"], ["us-east", "us-west"]]
      bake              = "5m"
      max_failed        = "12"
      min_healthy_time  = "30s"
      progress_deadline = "10m"
      auto_revert       = true
      approval          = false
      queue             = "latest"

      freeze "weekend" {
        days = ["sat", "sun"]
        from = "00:00"
        to   = "24:00"
        zone = "Europe/Berlin"
      }
      freeze "year-end" {
        from  = "2026-12-20T00:00:00Z"
        until = "2027-01-04T08:00:00Z"
      }
    }
  }
}
