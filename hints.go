package starling

import (
	"regexp"
	"strings"
)

var indexRE = regexp.MustCompile(`\[\d+\]`)

// HintOf says what belongs into a field of an app or a submission, by its dotted path
// (deploy.strategy.waves[1]), or into the nearest one around it that is known; empty if it
// is of neither. The paths are those of the JSON form; an app file spells them the same.
func HintOf(field string) string {
	known := hints()
	for path := indexRE.ReplaceAllString(field, ""); path != ""; {
		if hint := known[path]; hint != "" {
			return hint
		}
		path = path[:max(0, strings.LastIndexByte(path, '.'))]
	}
	return ""
}

func hints() map[string]string {
	return map[string]string{
		"app":      "the name of an app: starling app list shows them",
		"sha":      "git rev-parse HEAD prints the full SHA of the commit that is checked out",
		"artifact": "sha256: and 64 hex digits, as starling artifact list shows them",
		"priority": "0, the default, to 100; higher goes first",

		"name":          "lower-case letters, digits and dashes, 63 at most, e.g. web-frontend",
		"home":          "the region that orders the app's releases: starling region list shows them; leave it out for the one that is asked",
		"epoch":         "leave it out: the regions give it",
		"line":          "leave it out: the regions give it",
		"revision":      "leave it out: send the revision that you have seen as If-Match",
		"source":        "where the code is: git, and the branch that webhooks deploy",
		"source.git":    "a repository's URL, e.g. https://git.example/hello.git or ssh://git@git.example/hello.git",
		"source.branch": "a branch's name, e.g. main",

		"build":           "leave it out for an app that is only given prebuilt artifacts",
		"build.command":   `a program and its arguments, e.g. ["go", "build", "-o", "out/hello", "."]`,
		"build.output":    "a directory or file that the command leaves, relative to the checkout, e.g. out",
		"build.timeout":   "a duration from 1s to 24h, e.g. 15m",
		"build.network":   "true or false",
		"build.memory_mb": "a number of megabytes, 16 at least; 4096 unless given",
		"build.disk_mb":   "a number of megabytes, 1 at least; 20480 unless given",
		"build.env":       `names and values, e.g. {"GOFLAGS": "-trimpath"}`,

		"deploy":                        "which machines run the app, and how a new release reaches them",
		"deploy.targets":                "which machines, e.g. role == web and zone != b; leave it out for all",
		"deploy.run":                    `a program of the release and its arguments, e.g. ["./hello"]; leave it out to only place the files`,
		"deploy.deadline":               "a duration from 1s to 24h, e.g. 30m",
		"deploy.keep":                   "how many releases machines keep for rolling back, 1 to 20; 3 unless given",
		"deploy.health":                 "one of http, tcp and exec; leave the block out to have no check",
		"deploy.health.http":            "a URL that answers 2xx when all is well, e.g. http://127.0.0.1:$PORT/healthz",
		"deploy.health.tcp":             "an address that accepts, e.g. 127.0.0.1:$PORT",
		"deploy.health.exec":            `a program of the release and its arguments that ends with 0, e.g. ["./check"]`,
		"deploy.health.interval":        "a duration, 10ms at least, e.g. 1s",
		"deploy.health.timeout":         "a duration, e.g. 2s",
		"deploy.health.healthy_after":   "how long checks must pass without a break, e.g. 3s",
		"deploy.health.deadline":        "how long a release may take to become healthy, e.g. 1m",
		"deploy.hooks":                  "commands before and after a machine's switch: pre, post and their timeout",
		"deploy.hooks.pre":              `a program of the new release and its arguments, e.g. ["./migrate"]`,
		"deploy.hooks.post":             `a program of the new release and its arguments, e.g. ["./announce"]`,
		"deploy.hooks.timeout":          "a duration, e.g. 1m",
		"deploy.strategy":               "how a release rolls out: gate, waves, regions, bake, max_failed, min_healthy_time, progress_deadline, freeze, queue, auto_revert, approval",
		"deploy.strategy.gate":          "all_regions, quorum or each",
		"deploy.strategy.waves":         `percentages that rise to 100%, e.g. ["1%", "10%", "100%"]`,
		"deploy.strategy.bake":          "how long to look at a wave before the next, e.g. 30s",
		"deploy.strategy.max_failed":    "a percentage of the machines, e.g. 1%, or a number of them, e.g. 12",
		"deploy.strategy.auto_revert":   "true or false",
		"deploy.strategy.approval":      "true or false",
		"deploy.strategy.approval_plan": "true or false: whether an approval must name the plan that was shown",

		"deploy.systemd_unit":                "the name of a unit of the machine that runs the release, e.g. hello.service; leave it out for a child of the agent",
		"deploy.restart":                     "when a child that has ended is started again: mode, attempts, interval, delay, max_delay; leave it out for the defaults",
		"deploy.restart.mode":                "delay or fail",
		"deploy.restart.attempts":            "how many restarts in a row; leave it out for no limit",
		"deploy.restart.interval":            "how long a child must run for its attempts to begin anew, e.g. 30s",
		"deploy.restart.delay":               "the pause before the first restart, e.g. 1s; it doubles",
		"deploy.restart.max_delay":           "the longest pause between restarts, e.g. 30s",
		"deploy.stop_signal":                 "a signal's name, e.g. SIGTERM",
		"deploy.stop_timeout":                "how long a child may take to end, e.g. 10s",
		"deploy.logs":                        "how much of a child's output is kept: max_mb, files",
		"deploy.logs.max_mb":                 "a number of MiB of one file, e.g. 10",
		"deploy.logs.files":                  "a number of files, the one being written included, e.g. 2",
		"deploy.hooks.region":                "commands that a worker runs once in each region: pre, post, timeout, no_network, env",
		"deploy.hooks.region.pre":            `a program of the artifact and its arguments, e.g. ["./migrate"]`,
		"deploy.hooks.region.post":           `a program of the artifact and its arguments, e.g. ["./announce"]`,
		"deploy.hooks.region.timeout":        "a duration, e.g. 5m",
		"deploy.hooks.region.no_network":     "true or false",
		"deploy.hooks.region.env":            `names and values, e.g. {"STAGE": "production"}`,
		"deploy.hooks.deployment":            "commands that a worker runs once for the whole deployment: pre, post, timeout, no_network, env",
		"deploy.hooks.deployment.pre":        `a program of the artifact and its arguments, e.g. ["./migrate"]`,
		"deploy.hooks.deployment.post":       `a program of the artifact and its arguments, e.g. ["./announce"]`,
		"deploy.hooks.deployment.timeout":    "a duration, e.g. 5m",
		"deploy.hooks.deployment.no_network": "true or false",
		"deploy.hooks.deployment.env":        `names and values, e.g. {"STAGE": "production"}`,

		"deploy.strategy.regions":           `groups of regions in their order, e.g. [["eu-west"], ["us-east", "us-west"]]; those not named come last`,
		"deploy.strategy.min_healthy_time":  "how long a machine must be healthy to count as that, e.g. 10s; under health.deadline",
		"deploy.strategy.progress_deadline": "after how long without any machine coming further it fails, e.g. 5m",
		"deploy.strategy.freeze":            "windows in which no wave begins, each with a name, from, and to or until",
		"deploy.strategy.freeze.name":       "lower-case letters, digits and dashes, e.g. weekend",
		"deploy.strategy.freeze.days":       `on which it begins, e.g. ["sat", "sun"]; leave it out for every day`,
		"deploy.strategy.freeze.from":       "a time of day, e.g. 22:30, or with until an instant, e.g. 2026-12-20T00:00:00Z",
		"deploy.strategy.freeze.to":         "a time of day, e.g. 06:00; 24:00 at most; not after from: on the day after",
		"deploy.strategy.freeze.zone":       "a time zone, e.g. Europe/Berlin; UTC unless given",
		"deploy.strategy.freeze.until":      "the end of a span that begins at from, e.g. 2027-01-04T08:00:00Z",
		"deploy.strategy.queue":             "latest: a newer deployment supersedes those of the app that are still queued (an app file says this by default); every: each has its turn",
		"ignore_freeze":                     "true to roll out in spite of freeze windows",
	}
}
