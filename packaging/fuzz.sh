#!/bin/sh
# fuzz.sh N: runs every fuzz target of the module, N as -fuzztime takes it (5000x).
set -eu
for pkg in $(go list ./...); do
	for target in $(go test -list '^Fuzz' "$pkg" | grep '^Fuzz' || true); do
		echo "== $pkg $target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$1" "$pkg"
	done
done
