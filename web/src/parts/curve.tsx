import { useEffect, useRef } from 'preact/hooks'
import uPlot from 'uplot'
import 'uplot/dist/uPlot.min.css'
import type { CurvePoint } from '../api/types'
import { clock } from '../format'

const height = 190 // CSS pixels
// Twentieths of the artifact from which on a machine is counted in each band, most first.
const bands = [{ from: 20, label: 'all of it' }, { from: 15, label: '75 % and more' }, { from: 10, label: 'half and more' }, { from: 5, label: '25 % and more' }, { from: 1, label: '5 % and more' }]
const shades = [95, 66, 46, 30, 16] // of the colour, in per cent

function series(points: CurvePoint[], target: number): uPlot.AlignedData {
  const xs = points.map((p) => p.at_ms / 1000)
  const ys = bands.map(({ from }) => points.map((p) => {
    const all = Math.max(target, p.progress.reduce((a, b) => a + b, 0), 1)
    return (100 * p.progress.slice(from).reduce((a, b) => a + b, 0)) / all
  }))
  return [xs, ...ys.reverse()] as uPlot.AlignedData
}

function colours(el: HTMLElement) {
  const style = getComputedStyle(el)
  return { line: style.getPropertyValue('--line').trim(), dim: style.getPropertyValue('--dim').trim(), band: style.getPropertyValue('--staging').trim(), panel: style.getPropertyValue('--panel').trim() }
}

function options(el: HTMLElement): uPlot.Options {
  const c = colours(el)
  const axis = { stroke: c.dim, grid: { stroke: c.line, width: 1 }, ticks: { show: false }, font: '11px system-ui, sans-serif' }
  return {
    width: Math.max(200, el.clientWidth), height, legend: { show: false }, cursor: { show: false }, padding: [8, 6, 0, 0],
    scales: { x: { time: false }, y: { range: [0, 100] } },
    axes: [
      { ...axis, size: 26, values: (_, ticks) => ticks.map((t) => ((ticks[1] ?? 1) - (ticks[0] ?? 0) < 1 ? `${t.toFixed(1)} s` : clock(t * 1000))) },
      { ...axis, size: 42, splits: () => [0, 25, 50, 75, 100], values: (_, ticks) => ticks.map((t) => `${t} %`) },
    ],
    series: [{}, ...[...bands].reverse().map((b, i) => ({ label: b.label, stroke: c.band, width: i === bands.length - 1 ? 2 : 0.5, fill: `color-mix(in srgb, ${c.band} ${shades[bands.length - 1 - i]}%, ${c.panel})`, points: { show: false } }))],
  }
}

/** The share of machines by how much of the artifact they hold, over time. */
export function Curve({ points, target }: { points: CurvePoint[]; target: number }) {
  const box = useRef<HTMLDivElement>(null)
  const plot = useRef<uPlot | null>(null)
  const data = useRef<uPlot.AlignedData>([[]])
  data.current = series(points, target)
  useEffect(() => {
    const el = box.current!
    const make = (): void => {
      plot.current?.destroy()
      plot.current = new uPlot(options(el), data.current, el)
    }
    make()
    const dark = matchMedia('(prefers-color-scheme: dark)')
    dark.addEventListener('change', make)
    const observer = new ResizeObserver(() => plot.current?.setSize({ width: Math.max(200, el.clientWidth), height }))
    observer.observe(el)
    return () => {
      observer.disconnect()
      dark.removeEventListener('change', make)
      plot.current?.destroy()
    }
  }, [])
  useEffect(() => { plot.current?.setData(data.current) }, [points])
  const last = points[points.length - 1]
  const held = last ? last.progress[20] ?? 0 : 0
  return (
    <div>
      <div class="curve" ref={box} role="img" aria-label={`${held} of ${target} machines hold all of the artifact`} />
      <ul class="curve-legend" aria-hidden="true">{bands.map((b, i) => <li key={b.from}><i style={{ background: `color-mix(in srgb, var(--staging) ${shades[i]}%, var(--panel))` }} />{b.label}</li>)}</ul>
    </div>
  )
}
