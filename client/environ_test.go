package client_test

import (
	"log"
	"os"
)

// setenv is testing's, for examples.
func setenv(name, value string) (restore func()) {
	old, was := os.LookupEnv(name)
	if err := os.Setenv(name, value); err != nil {
		log.Fatal(err)
	}
	return func() {
		var err error
		if was {
			err = os.Setenv(name, old)
		} else {
			err = os.Unsetenv(name)
		}
		if err != nil {
			log.Fatal(err)
		}
	}
}
