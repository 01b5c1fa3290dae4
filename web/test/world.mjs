// A real world for the page's tests: `starling dev`, a git repository, and the API.
import { execFileSync, spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..')
export const starling = path.join(root, 'bin', 'starling')

const patienceMS = 60_000 // of everything that is waited for

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms))

/** until calls look until it gives something; what never does fails with its last error. */
export async function until(what, look, within = patienceMS) {
  const end = Date.now() + within
  for (let last; ; await sleep(100)) {
    try {
      const got = await look()
      if (got) return got
    } catch (err) { last = err }
    if (Date.now() > end) throw new Error(`${what}: not within ${within / 1000} s`, { cause: last })
  }
}

export async function api(addr, method, url, body, headers = {}) {
  const res = await fetch(addr + url, { method, headers: { ...(body ? { 'Content-Type': 'application/json' } : {}), ...headers }, body: body ? JSON.stringify(body) : undefined })
  const text = await res.text()
  if (!res.ok) throw new Error(`${method} ${url}: ${res.status} ${text}`)
  return text ? JSON.parse(text) : undefined
}

function run(args, dir, log) {
  const out = openSync(log, 'a')
  return spawn(starling, args, { cwd: dir, stdio: ['ignore', out, out], env: { ...process.env, HOME: dir } })
}

/** startWorld runs `starling dev` and returns what is where, and how to end it. */
export async function startWorld(args) {
  const dir = mkdtempSync(path.join(tmpdir(), 'starling-web-'))
  const log = path.join(dir, 'dev.log')
  const child = run(['dev', ...args, '--dir', path.join(dir, 'world')], dir, log)
  const stop = () => end(child, dir)
  try {
    await until('the world starts', () => {
      if (child.exitCode !== null) throw new Error(`it ended: ${readFileSync(log, 'utf8')}`)
      return readFileSync(log, 'utf8').includes('STARLING_ADDR')
    })
  } catch (err) { await stop(); throw err }
  const procs = readFileSync(log, 'utf8').split('\n').flatMap((line) => {
    const m = /^(\S+)\s+(\S+)\s+(\d+)\s+(http:\S+)?\s*(\/\S+)$/.exec(line)
    return m ? [{ name: m[1], region: m[2], pid: +m[3], http: m[4], dir: path.dirname(m[5]), log: m[5] }] : []
  })
  return { dir, procs, servers: procs.filter((p) => p.http), stop }
}

/** startAgent runs one process with a configuration and waits until it is ready. */
export async function startAgent(dir, config, addr) {
  const file = path.join(dir, 'agent.hcl')
  writeFileSync(file, config)
  const child = run(['agent', `--config=${file}`], dir, path.join(dir, 'agent.log'))
  await until('the agent is ready', async () => (await fetch(`${addr}/readyz`)).ok)
  return { child, stop: () => end(child, dir) }
}

/** restart starts a process of a world again, which was killed. */
export function restart(proc) {
  return run(['agent', `--config=${path.join(proc.dir, 'agent.hcl')}`], proc.dir, proc.log)
}

export async function end(child, dir) {
  if (child.exitCode === null && child.signalCode === null) {
    const gone = new Promise((done) => child.once('exit', done))
    child.kill('SIGINT')
    const late = setTimeout(() => child.kill('SIGKILL'), 15_000)
    await gone
    clearTimeout(late)
  }
  if (dir) rmSync(dir, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 })
}

/** A repository whose commits are releases of a shell script; a broken one fails its health check. */
export class Repo {
  constructor(dir) {
    this.dir = dir
    mkdirSync(dir)
    this.git('init', '--quiet', '--initial-branch=main')
    writeFileSync(path.join(dir, 'build.sh'), '#!/bin/sh\nset -e\nfor step in fetch compile link; do echo "$step $(cat VERSION)"; sleep 0.3; done\nmkdir -p out\ncp run.sh check.sh VERSION out/\nhead -c 3000000 data.bin > out/data.bin\necho "built $(cat VERSION)"\n', { mode: 0o755 })
    writeFileSync(path.join(dir, 'run.sh'), '#!/bin/sh\nwhile :; do sleep 1; done\n', { mode: 0o755 })
    writeFileSync(path.join(dir, 'check.sh'), '#!/bin/sh\ngrep -q broken VERSION && { echo "this release is broken" >&2; exit 1; }\nexit 0\n', { mode: 0o755 })
    const data = Buffer.alloc(3_000_000)
    for (let i = 0, x = 12345; i < data.length; i++) { x = (x * 1103515245 + 12345) & 0x7fffffff; data[i] = x >> 16 }
    writeFileSync(path.join(dir, 'data.bin'), data)
  }

  git(...args) {
    return execFileSync('git', ['-C', this.dir, '-c', 'user.name=Ada', '-c', 'user.email=ada@starling.example', ...args], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] }).trim()
  }

  commit(version) {
    writeFileSync(path.join(this.dir, 'VERSION'), version + '\n')
    this.git('add', '--all')
    this.git('commit', '--quiet', '--message', version)
    return this.git('rev-parse', 'HEAD')
  }

  app(name, strategy = {}) {
    return {
      name, source: { git: this.dir, branch: 'main' },
      build: { command: ['./build.sh'], output: 'out' },
      deploy: {
        targets: 'role == web', run: ['./run.sh'],
        health: { exec: ['./check.sh'], interval: '200ms', timeout: '10s', healthy_after: '400ms', deadline: '3s' },
        strategy: { waves: ['25%', '100%'], max_failed: '0%', auto_revert: true, ...strategy },
      },
    }
  }
}
