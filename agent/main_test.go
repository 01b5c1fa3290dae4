package agent

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// The test binary is also the program of the releases under test, and an agent of
// its own for tests that kill it. The first argument chooses.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "helper-serve":
			helperServe()
		case "helper-agent":
			helperAgent()
		case "helper-hook":
			helperHook(os.Args[2:])
		case "helper-family":
			helperFamily()
		}
	}
	goleak.VerifyTestMain(m)
}

// exe is the test binary.
func exe(t testing.TB) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// helperServe is a release's program. The file "mode" in its directory says how it behaves.
func helperServe() {
	mode := strings.TrimSpace(readFileOr("mode", "ok"))
	version := strings.TrimSpace(readFileOr("version", "none"))
	fmt.Println("starting", version, "as", os.Getenv("STARLING_APP"), "generation", os.Getenv("STARLING_GENERATION"))
	switch mode {
	case "crash":
		fmt.Fprintln(os.Stderr, "boom: the configuration is missing")
		os.Exit(3)
	case "deaf":
		signal.Ignore(syscall.SIGTERM)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if mode == "sick" {
			http.Error(w, "not well", http.StatusInternalServerError)
			return
		}
		fmt.Fprintln(w, version)
	})
	mux.HandleFunc("/die", func(http.ResponseWriter, *http.Request) { fmt.Println("dying as asked"); os.Exit(7) })
	mux.HandleFunc("/env", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Join(os.Environ(), "\n")) })
	// The release before may still be letting go of the port.
	var ln net.Listener
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		var err error
		if ln, err = net.Listen("tcp", "127.0.0.1:"+os.Getenv("PORT")); err == nil {
			break
		}
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(deadline) {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	fmt.Fprintln(os.Stderr, http.Serve(ln, mux))
	os.Exit(1)
}

// helperHook does what its arguments say, in turn.
func helperHook(args []string) {
	for _, a := range args {
		verb, arg, _ := strings.Cut(a, "=")
		switch verb {
		case "touch":
			if err := os.WriteFile(arg, []byte(os.Getenv("STARLING_GENERATION")), 0o600); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		case "want":
			if _, err := os.Stat(arg); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		case "hang":
			select {}
		case "fail":
			fmt.Println(arg)
			os.Exit(1)
		}
	}
	os.Exit(0)
}

// helperFamily starts a child of its own in its group and waits.
func helperFamily() {
	child := exec.Command("/bin/sleep", "1000")
	child.Stdout = os.Stdout
	if err := child.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("child", child.Process.Pid)
	if len(os.Args) > 2 && os.Args[2] == "leave" {
		os.Exit(0)
	}
	_ = child.Wait()
	os.Exit(0)
}

func readFileOr(path, or string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return or
	}
	return string(b)
}

// eventually polls until ok or a deadline; what says what was hoped for.
func eventually(t testing.TB, within time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("after %s still not: %s", within, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
