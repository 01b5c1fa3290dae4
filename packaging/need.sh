#!/bin/sh
# need.sh COMMAND[:PACKAGE]…: sees that each command is there; on Debian as root it
# installs the package that has it, else it says how.
set -eu
missing=
for want in "$@"; do
	command -v "${want%%:*}" >/dev/null 2>&1 || missing="$missing ${want##*:}"
done
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null 2>&1; then
	echo "Please install:$missing" >&2
	exit 1
fi
if [ "$(id -u)" -eq 0 ]; then sudo=; else sudo=sudo; fi
echo "installing:$missing"
$sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq $missing >/dev/null || {
	echo "Please install these packages, then try again: apt-get install$missing" >&2
	exit 1
}
