# go-metrics/compat reports to hashicorp/go-metrics, as serf and raft do, only with this tag.
GOFLAGS  += -tags=hashicorpmetrics
export GOFLAGS
VERSION  := $(shell git describe --always --dirty 2>/dev/null || echo dev)
LDFLAGS  := -X main.version=$(VERSION)

.PHONY: histories build web test-web test demo bench chaos chaos-short lint fuzz model soak clean tools

build:
	@packaging/page.sh
	go build -trimpath -ldflags "$(LDFLAGS)" -o bin/ ./cmd/...

# The web page, which servers show under /ui; `make build` makes it too where npm is.
web:
	@packaging/need.sh npm
	@packaging/page.sh --must

# The page in a real Chromium against a real `starling dev`. SCREENSHOTS=docs/ui renews the pictures there.
test-web: tools
	@packaging/need.sh node:nodejs npm chromium
	@packaging/page.sh --must
	go build -trimpath -ldflags "$(LDFLAGS)" -o bin/ ./cmd/starling
	node --test --test-reporter=spec web/test/*.test.mjs

# The main job, end to end, on this computer.
demo: tools build
	bin/starling dev --regions 2 --servers 3 --machines 8 --once

test: tools
	@packaging/need.sh dbus-daemon # on which units of systemd are tested
	go vet ./...
	go test -race -timeout 900s ./...

# Recorded histories under faults, for as long as HISTORY says; a seed to replay: -history.seed.
HISTORY ?= 10m
histories:
	go test ./cmd/starling -run TestHistor -v -timeout 0 -history.for=$(HISTORY)

bench: build
	bin/starling-bench chunk --json
	bin/starling-bench submit --json
	bin/starling-bench swarm --json --compare aria2,libtorrent
	bin/starling-bench queue --json
	bin/starling-bench sim --json

# Processes, disks, links and clocks fail while deployments go on: docs/chaos.md. Every run has another seed, which
# it tells; SEED=n repeats one. Without root it cannot run, and says so.
SEED ?= $(shell date +%s)
chaos: tools build
	bin/starling-bench chaos --seed $(SEED)
chaos-short: tools build
	bin/starling-bench chaos --seed $(SEED) --duration 60s --json

lint:
	go vet ./...
	go -C tools build -o ../bin/staticcheck honnef.co/go/tools/cmd/staticcheck
	bin/staticcheck ./...

# A short run of every fuzz target; FUZZTIME=10000000x for a long one. Counted in runs: with a duration, Go before
# 1.27 at times fails a target when its time is over (go.dev/issue/75804).
FUZZTIME ?= 5000x
fuzz:
	packaging/fuzz.sh $(FUZZTIME)

# All that can become of three regions and a lost one, within bounds, and many schedules of their elections.
model:
	STARLING_MODEL_STATES=1000000 go test ./raftfsm -run TestTakeoverModel -v -count=1 -timeout 0
	STARLING_SEEDS=500 go test ./control -run TestSuccession -v -count=1 -timeout 0

# Schedules of the simulated control plane, from a seed of the clock on (FIRST=n: from there); any that fails is
# played again by go test ./sim/plane -run TestPlane -seed N.
SECONDS ?= 60
FIRST   ?= 0
soak:
	go test ./sim/plane -run TestPlane -v -count=1 -timeout 0 -soak $(SECONDS)s -first $(FIRST)

# git and bubblewrap are what builds need; installs them on Debian, or says how.
tools:
	@packaging/need.sh git bwrap:bubblewrap

clean:
	rm -rf bin .starling
