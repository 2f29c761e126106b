// Small parts that every pane uses.

import { type ComponentChildren } from "preact";
import { useEffect, useReducer, useState } from "preact/hooks";
import type { Feed } from "./feed";

/** Draw again whenever something of the dataflow changes. */
export function useFeed(feed: Feed, channel: Parameters<Feed["on"]>[0]): void {
  const [, again] = useReducer((count: number) => count + 1, 0);
  useEffect(() => feed.on(channel, () => again(undefined as never)), [feed, channel]);
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

/** Draw again each second, for times that go on. */
export function useClock(): void {
  const [, again] = useReducer((count: number) => count + 1, 0);
  useEffect(() => {
    const timer = setInterval(() => document.hidden || again(undefined as never), 1000);
    return () => clearInterval(timer);
  }, []);
}

/** A state that the browser remembers, or with `sessionStorage` the tab. What cannot be stored or read is as if it had not been stored. */
export function useStored<T>(key: string, initial: T, storage = localStorage): [T, (value: T) => void] {
  const [value, setValue] = useState<T>(() => {
    try {
      return (JSON.parse(storage.getItem(key) ?? "null") as T) ?? initial;
    } catch {
      return initial;
    }
  });
  const store = (next: T) => {
    setValue(next);
    try {
      storage.setItem(key, JSON.stringify(next));
    } catch {
      // It is full, or switched off: the value lasts as long as the page.
    }
  };
  return [value, store];
}

/** The border between two panes; `size` is that of the pane before it, in percent of the parent. */
export function Splitter(props: { label: string; axis: "x" | "y"; size: number; onSize: (size: number) => void }) {
  const set = (size: number) => props.onSize(Math.round(Math.max(15, Math.min(85, size)) * 10) / 10);
  const across = props.axis === "x";
  const drag = (event: PointerEvent) => {
    const bar = event.currentTarget as HTMLElement;
    if (!bar.hasPointerCapture(event.pointerId)) return;
    const area = bar.parentElement!.getBoundingClientRect();
    set(100 * (across ? (event.clientX - area.left) / area.width : (event.clientY - area.top) / area.height));
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const step = { ArrowLeft: -2, ArrowUp: -2, ArrowRight: 2, ArrowDown: 2 }[event.key];
    if (step) set(props.size + step);
  };
  return (
    <div
      class={`splitter ${props.axis}`}
      role="separator"
      tabIndex={0}
      aria-label={props.label}
      aria-orientation={across ? "vertical" : "horizontal"}
      aria-valuenow={Math.round(props.size)}
      onKeyDown={onKeyDown}
      onPointerDown={(event) => event.currentTarget.setPointerCapture(event.pointerId)}
      onPointerMove={drag}
    />
  );
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

type Theme = "" | "light" | "dark";

/** The button that changes between dark and light; without a choice, the colours follow the system. */
export function ThemeButton() {
  const [theme, setTheme] = useState<Theme>((localStorage.getItem("theme") as Theme) ?? "");
  useEffect(() => {
    document.documentElement.style.colorScheme = theme || "light dark";
    localStorage.setItem("theme", theme);
  }, [theme]);
  const dark = theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const sun = "M8 5a3 3 0 1 0 .01 0zM8 1v1.500M8 13.500V15M1 8h1.500M13.500 8H15M3 3l1 1M12 12l1 1M13 3l-1 1M4 12l-1 1";
  const moon = "M13 9.500A5.500 5.500 0 0 1 6.500 3a5.500 5.500 0 1 0 6.500 6.500z";
  return <IconButton path={dark ? sun : moon} label={dark ? "Light" : "Dark"} onClick={() => setTheme(dark ? "light" : "dark")} />;
}
