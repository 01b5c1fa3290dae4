# An app with all that may run around a release: see docs/running.md.
app "shop" {
  source {
    git    = "https://git.example/shop.git"
    branch = "main"
  }
  build {
    command = ["./build.sh"]
    output  = "out"
  }
  deploy {
    targets      = "role == web"
    run          = ["./shop"]
    stop_signal  = "SIGINT"
    stop_timeout = "20s"
    restart {
      mode     = "fail"
      attempts = 5
      interval = "1m"
    }
    logs {
      max_mb = 50
      files  = 4
    }
    health {
      tcp = "127.0.0.1:$PORT"
    }
    hooks {
      pre  = ["./drain"]
      post = ["./undrain"]
      region {
        post    = ["./smoke-test"]
        timeout = "2m"
      }
      deployment {
        pre = ["./migrate"]
      }
    }
    strategy {
      waves       = ["10%", "100%"]
      auto_revert = true
    }
  }
}
