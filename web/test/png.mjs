// Pictures of pages have few colours: with a palette of 256 they take a third of the bytes (PNG, W3C, third edition).
import { crc32, deflateSync, inflateSync } from 'node:zlib'

const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a])
const exact = 96 // most frequent colours that stay as they are
const coarse = 96 // that speak for what is rare, one for each part of the cube

function chunks(png) {
  const out = []
  for (let at = 8; at < png.length;) {
    const length = png.readUInt32BE(at)
    out.push({ type: png.toString('latin1', at + 4, at + 8), data: png.subarray(at + 8, at + 8 + length) })
    at += 12 + length
  }
  return out
}

function chunk(type, data) {
  const body = Buffer.concat([Buffer.from(type, 'latin1'), data])
  const out = Buffer.alloc(body.length + 8)
  out.writeUInt32BE(data.length, 0)
  body.copy(out, 4)
  out.writeUInt32BE(crc32(body) >>> 0, out.length - 4)
  return out
}

/** pixels undoes the filters of the lines of an 8-bit picture in RGB or RGBA. */
function pixels(raw, width, height, size) {
  const stride = width * size
  const out = Buffer.alloc(stride * height)
  for (let y = 0; y < height; y++) {
    const filter = raw[y * (stride + 1)]
    for (let x = 0; x < stride; x++) {
      const a = x >= size ? out[y * stride + x - size] : 0
      const b = y > 0 ? out[(y - 1) * stride + x] : 0
      const c = x >= size && y > 0 ? out[(y - 1) * stride + x - size] : 0
      const p = a + b - c
      const [pa, pb, pc] = [Math.abs(p - a), Math.abs(p - b), Math.abs(p - c)]
      const guess = [0, a, b, (a + b) >> 1, pa <= pb && pa <= pc ? a : pb <= pc ? b : c][filter]
      out[y * stride + x] = raw[y * (stride + 1) + 1 + x] + guess
    }
  }
  return out
}

/** shares adds up the colours of each part of the cube, in the name of its most frequent one. */
function shares(sorted, mask, most) {
  const parts = new Map()
  for (const [c, n] of sorted) {
    const part = parts.get(c & mask) ?? { n: 0, c }
    parts.set(c & mask, { n: part.n + n, c: part.c })
  }
  return [...parts.values()].sort((a, b) => b.n - a.n).slice(0, most).map((p) => p.c)
}

/** palette chooses 256 colours: the most frequent ones, some of every kind, and what is left by parts. */
function palette(counts) {
  const sorted = [...counts].sort((a, b) => b[1] - a[1])
  const chosen = new Set([...sorted.slice(0, exact).map(([c]) => c), ...shares(sorted.slice(exact), 0xc0c0c0, coarse)])
  return [...new Set([...chosen, ...shares(sorted.slice(exact), 0xf0f0f0, 256 - chosen.size)])].slice(0, 256)
}

function nearest(colours, c) {
  let best = 0
  let least = Infinity
  for (let i = 0; i < colours.length; i++) {
    const d = colours[i]
    const [r, g, b] = [(d >> 16) - (c >> 16), ((d >> 8) & 255) - ((c >> 8) & 255), (d & 255) - (c & 255)]
    const far = 3 * r * r + 6 * g * g + b * b
    if (far < least) { least = far; best = i }
  }
  return best
}

/** withPalette returns an opaque 8-bit picture as one with a palette. */
export function withPalette(png) {
  const all = chunks(png)
  const head = all.find((c) => c.type === 'IHDR').data
  const [width, height, size] = [head.readUInt32BE(0), head.readUInt32BE(4), head[9] === 6 ? 4 : 3]
  const data = pixels(inflateSync(Buffer.concat(all.filter((c) => c.type === 'IDAT').map((c) => c.data))), width, height, size)
  const counts = new Map()
  const colour = new Uint32Array(width * height)
  for (let i = 0; i < colour.length; i++) {
    const c = (data[i * size] << 16) | (data[i * size + 1] << 8) | data[i * size + 2]
    colour[i] = c
    counts.set(c, (counts.get(c) ?? 0) + 1)
  }
  const colours = palette(counts)
  const places = new Map([...counts.keys()].map((c) => [c, nearest(colours, c)]))
  const lines = Buffer.alloc(height * (width + 1)) // filter 0 on every line
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) lines[y * (width + 1) + 1 + x] = places.get(colour[y * width + x])
  const newHead = Buffer.from(head)
  newHead[9] = 3
  const entries = Buffer.from(colours.flatMap((c) => [c >> 16, (c >> 8) & 255, c & 255]))
  return Buffer.concat([signature, chunk('IHDR', newHead), chunk('PLTE', entries), chunk('IDAT', deflateSync(lines, { level: 9, memLevel: 9 })), chunk('IEND', Buffer.alloc(0))])
}
