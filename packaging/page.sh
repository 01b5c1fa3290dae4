#!/bin/sh
# page.sh [--must]: builds the web page into web/dist, from where the Go build embeds it. Without npm, or where the
# packages cannot be had, it says so and leaves the placeholder, unless it must.
set -eu
cd "$(dirname "$0")/../web"
without() {
	echo "$1: servers are built without the web page" >&2
	[ "${must:-}" != --must ] || exit 1
	exit 0
}
must=${1:-}
command -v npm >/dev/null 2>&1 || without "npm is not here"
if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
	npm ci --silent || without "npm ci failed"
fi
if [ ! -e dist/index.html ] || [ -n "$(find src public index.html package-lock.json vite.config.js tsconfig.json -newer dist/index.html)" ]; then
	npm run --silent build
fi
