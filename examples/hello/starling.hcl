# The app file of examples/hello. `make demo` uses it with a repository of its own.
app "hello" {
  source {
    git    = "https://git.example/hello.git"
    branch = "main"
  }
  build {
    command = ["./build.sh"]
    output  = "out"
  }
  deploy {
    targets = "role == web"
    run     = ["./hello"]
    health {
      http          = "http://127.0.0.1:$PORT/healthz"
      interval      = "200ms"
      healthy_after = "1s"
      deadline      = "10s"
    }
    strategy {
      waves      = ["25%", "100%"]
      max_failed = "0%"
    }
  }
}
