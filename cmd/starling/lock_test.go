package main

import (
	"testing"
	"time"
)

// Who held the data directory may need a moment to be gone; who stays is not waited for.
func TestDataDirIsHadAMomentLater(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	unlock, err := lockDataDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockDataDir(dir); err == nil {
		t.Fatal("two processes have one data directory")
	}
	time.AfterFunc(10*lockEvery, unlock)
	again, err := lockDataDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	again()
}
