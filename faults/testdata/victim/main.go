// Command victim syncs a file at each line that it reads, and tells its clocks, how long
// that took, and whether it failed.
package main

import (
	"bufio"
	"fmt"
	"os"
	"time"
)

func main() {
	f, err := os.CreateTemp("", "")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer os.Remove(f.Name())
	began := time.Now()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		before := time.Now()
		syncing := f.Sync()
		took := time.Since(before)
		fmt.Println(time.Now().Unix(), time.Since(began).Milliseconds(), took.Milliseconds(), syncing != nil)
	}
}
