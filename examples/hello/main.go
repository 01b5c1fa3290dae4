// Command hello is a small web server, the example that Starling's demo deploys.
package main

import (
	_ "embed"
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"
)

//go:embed VERSION
var version string

func main() {
	version = strings.TrimSpace(version)
	addr := "127.0.0.1:" + os.Getenv("PORT")
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, version)
	})
	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if strings.Contains(version, "broken") {
			http.Error(w, "this release is broken", http.StatusInternalServerError)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	log.Printf("hello %s listens on %s as %s", version, addr, os.Getenv("STARLING_NODE"))
	log.Fatal(http.ListenAndServe(addr, nil))
}
