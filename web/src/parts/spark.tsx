/** A small line of the last values, without axes. */
export function Spark({ values, label }: { values: number[]; label: string }) {
  const most = Math.max(1, ...values)
  const n = Math.max(2, values.length)
  const points = values.map((v, i) => `${((100 * i) / (n - 1)).toFixed(1)},${(28 - (26 * v) / most).toFixed(1)}`)
  return (
    <svg class="spark" viewBox="0 0 100 30" preserveAspectRatio="none" role="img" aria-label={label}>
      {points.length > 1 && <polygon points={`0,30 ${points.join(' ')} 100,30`} class="spark-area" />}
      {points.length > 1 && <polyline points={points.join(' ')} class="spark-line" />}
    </svg>
  )
}
