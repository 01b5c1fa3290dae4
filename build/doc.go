// Package build is a worker: it leases jobs from the leader of its region, fetches
// the commit with git, runs the app's command in a sandbox, streams the log, packs
// the output and uploads the chunks that the caches lack.
//
// Layout of the data directory, which one worker owns alone:
//
//	worker.lock       held while Run runs
//	gitconfig         what git reads instead of the user's and the system's settings
//	mirrors/<hash>    one bare repository per URL
//	cache/<app>       tool caches that survive from one build of an app to its next
//	work/job-*        one directory per build: src, tmp, home; gone when the build ends
//	work/hook-*       the same for a hook, src being the artifact
//
// # Sandbox
//
// With bubblewrap a build gets its own user, mount, PID, IPC, UTS and (unless it asked
// for the network) network namespace, sees a read-only system, its checkout at /src and
// its app's cache at /cache, and holds no capability. Its /tmp and home lie in the
// workspace on disk, not in memory, so that they count as disk. With build.network the
// build shares the worker's network, loopback included. Where bubblewrap is missing or
// does not work, builds run as plain processes of the worker's user and every log and
// result says so. Either way, what a build has started is killed when its command ends.
//
// # Limits
//
// Time and the size of one file are exact. Memory, processes and disk are watched:
// memory by summing the resident sets of the build's processes four times a second,
// since address-space limits (RLIMIT_AS, RLIMIT_DATA) break runtimes that reserve far
// more than they use, as Go, Java and the race detector do. Builds are also the
// kernel's first choice when memory runs out. With Config.CgroupDir memory and
// processes are exact too.
//
// Submodules and Git LFS are not fetched. The package runs on Linux only.
package build
