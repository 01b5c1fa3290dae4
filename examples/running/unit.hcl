# An app that the machines' systemd runs: see docs/running.md.
app "hello" {
  deploy {
    systemd_unit = "hello.service"
    health {
      http = "http://127.0.0.1:8080/healthz"
    }
  }
}
