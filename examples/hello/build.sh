#!/bin/sh
# Builds the release into out/: the program and the data that it ships with.
set -eu
mkdir -p out
CGO_ENABLED=0 go build -trimpath -ldflags=-buildid= -o out/hello .
if [ -d data ]; then cp -R data out/data; fi
