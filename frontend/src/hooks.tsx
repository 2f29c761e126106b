// Small parts that every pane uses.

import { type ComponentChildren } from "preact";
import { useEffect, useReducer, useState } from "preact/hooks";
import type { Live } from "./server";

/** Draw again whenever something of the dataflow changes. */
export function useLive(live: Live, channel: Parameters<Live["on"]>[0]): void {
  const [, again] = useReducer((count: number) => count + 1, 0);
  useEffect(() => live.on(channel, () => again(undefined as never)), [live, channel]);
}

const PHONE = matchMedia("(max-width: 760px)"); // as in dashboard.css

/** Whether there is room for one pane only. */
export function useNarrow(): boolean {
  const [narrow, setNarrow] = useState(PHONE.matches);
  useEffect(() => {
    const note = () => setNarrow(PHONE.matches);
    PHONE.addEventListener("change", note);
    return () => PHONE.removeEventListener("change", note);
  }, []);
  return narrow;
}

/** A button that asks once more before it does what cannot be undone. */
export function ConfirmButton(props: { label: string; sure: string; onConfirm: () => void; disabled?: boolean }) {
  const [asking, setAsking] = useState(false);
  useEffect(() => {
    if (!asking) return;
    const timer = setTimeout(() => setAsking(false), 4000);
    return () => clearTimeout(timer);
  }, [asking]);
  const press = () => {
    setAsking(!asking);
    if (asking) props.onConfirm();
  };
  return (
    <button class={asking ? "button sure" : "button"} disabled={props.disabled} onClick={press}>
      {asking ? props.sure : props.label}
    </button>
  );
}

export function Icon(props: { path: string }) {
  return (
    <svg viewBox="0 0 16 16" aria-hidden="true">
      <path d={props.path} />
    </svg>
  );
}

export function IconButton(props: { path: string; label: string; onClick: () => void; pressed?: boolean }) {
  return (
    <button
      class="icon"
      title={props.label}
      aria-label={props.label}
      aria-pressed={props.pressed}
      onClick={props.onClick}
    >
      <Icon path={props.path} />
    </button>
  );
}

export function Chip(props: { tone: string; children: ComponentChildren }) {
  return <span class={`chip ${props.tone}`}>{props.children}</span>;
}
