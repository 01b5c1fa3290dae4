import type { ComponentChildren } from 'preact'
import { useEffect, useId, useRef, useState } from 'preact/hooks'
import { Problem } from '../api/http'

interface Props { title: string; children: ComponentChildren; confirm: string; danger?: boolean; act(): Promise<void>; close(): void }

/** A question that must be answered before anything happens. Escape answers no. */
export function Confirm({ title, children, confirm, danger = false, act, close }: Props) {
  const box = useRef<HTMLDialogElement>(null)
  const [busy, setBusy] = useState(false)
  const [problem, setProblem] = useState<Problem | null>(null)
  const id = useId()
  useEffect(() => { box.current!.showModal() }, [])
  const go = async (): Promise<void> => {
    setBusy(true)
    setProblem(null)
    try {
      await act()
      close()
    } catch (err) {
      setProblem(err instanceof Problem ? err : new Problem(0, String(err)))
      setBusy(false)
    }
  }
  return (
    <dialog ref={box} aria-labelledby={id} onClose={close} onCancel={(e) => { if (busy) e.preventDefault() }}>
      <form method="dialog" onSubmit={(e) => { e.preventDefault(); void go() }}>
        <h2 id={id}>{title}</h2>
        <div class="dialog-text">{children}</div>
        {problem && <p class="problem" role="alert"><b>{problem.message}</b>{problem.hint && <span>{problem.hint}</span>}</p>}
        <div class="dialog-buttons">
          <button type="button" class="button" onClick={close} disabled={busy}>Keep it as it is</button>
          <button type="submit" class={`button ${danger ? 'danger' : 'primary'}`} disabled={busy} autofocus>{confirm}</button>
        </div>
      </form>
    </dialog>
  )
}
