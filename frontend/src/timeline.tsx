// The time axis: where in a recording the page is, and what happened when.

import { useEffect, useReducer, useRef } from "preact/hooks";
import { Icon, IconButton } from "./hooks";
import { clock } from "./model";
import { clockOf, type Mark, type Past, type Playhead, SPEEDS } from "./past";

const SECOND = 1e9; // nanoseconds
const TICK = 90; // pixels between two ticks, at least
const NEAR = 7; // pixels: marks that are closer share a place
/** The words and the colours of marks, by kind. */
const KINDS: Record<string, { word: string; tone: string }> = {
  failed: { word: "failed", tone: "bad" },
  safe_state: { word: "safe state", tone: "bad" },
  missed: { word: "missed", tone: "warn" },
  restarted: { word: "restarted", tone: "warn" },
  reloaded: { word: "code changed", tone: "near" },
  replaced: { word: "replaced", tone: "near" },
  note: { word: "note", tone: "near" },
  saved: { word: "saved", tone: "rest" },
  differs: { word: "differs", tone: "warn" },
};

/** Draw again when the moment, the speed or the axis changes. */
export function usePlayhead(playhead: Playhead): void {
  const [, again] = useReducer((count: number) => count + 1, 0);
  useEffect(() => playhead.on(() => again(undefined as never)), [playhead]);
}

/** Return a sentence about a mark. */
function sentence(mark: Mark): string {
  const word = KINDS[mark.kind]?.word ?? mark.kind;
  const text = mark.text && mark.text !== word ? `: ${mark.text}` : "";
  return `${clockOf(mark.at)} ${mark.node ? `${mark.node} ` : ""}${word}${text}`;
}

/** Return times for the ticks of an axis, a round number of seconds apart. */
export function ticks(from: number, until: number, room: number): number[] {
  const least = ((until - from) / Math.max(1, room / TICK)) / SECOND;
  const power = 10 ** Math.floor(Math.log10(Math.max(least, 1e-6)));
  const minutes = [15, 30, 60, 120, 300, 600, 1800, 3600];
  const step = (least > 10 ? (minutes.find((size) => size >= least) ?? Math.ceil(least / 3600) * 3600) : [1, 2, 5, 10].map((part) => part * power).find((size) => size >= least)!) * SECOND;
  const found = [];
  for (let at = Math.ceil(from / step) * step; at <= until; at += step) found.push(at);
  return found;
}

export function Timeline(props: {
  playhead: Playhead;
  pasts: Past[]; // those that follow it; the first one gives the clock and how busy it was
  marks: Mark[];
  stepTopics: () => string[]; // whose messages the steps go through; none: of all outputs
  onLive?: () => void; // leave the past
}) {
  const { playhead, pasts, marks } = props;
  usePlayhead(playhead);
  const axis = useRef<HTMLDivElement>(null);
  const [first] = pasts;
  const width = axis.current?.clientWidth || 600;
  const span = playhead.until - playhead.from;
  const place = (at: number) => (100 * (at - playhead.from)) / span;
  const timeAt = (clientX: number) => {
    const area = axis.current!.getBoundingClientRect();
    return playhead.from + (span * (clientX - area.left)) / area.width;
  };
  const step = (forward: boolean) => {
    if (playhead.playing) playhead.toggle();
    void first?.step(props.stepTopics(), forward);
  };
  const toMark = (forward: boolean) => {
    const other = forward ? marks.find(({ at }) => at > playhead.at) : [...marks].reverse().find(({ at }) => at < playhead.at);
    if (other) playhead.seek(other.at);
  };

  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement;
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
      if (target.closest("input, select, textarea, .grip, .resize, .scene, [role=separator], [role=log], [role=dialog], .code")) return;
      if (event.key === " " && target.closest("button, summary, [role=button]")) return;
      const actions: Record<string, () => void> = {
        " ": () => playhead.toggle(),
        ArrowLeft: () => (event.shiftKey ? playhead.seek(playhead.at - SECOND) : step(false)),
        ArrowRight: () => (event.shiftKey ? playhead.seek(playhead.at + SECOND) : step(true)),
        Home: () => playhead.seek(0),
        End: () => (props.onLive ? props.onLive() : playhead.seek(playhead.length)),
        "[": () => toMark(false),
        "]": () => toMark(true),
        "+": () => playhead.zoom(0.5),
        "-": () => playhead.zoom(2),
      };
      const action = actions[event.key];
      if (!action) return;
      event.preventDefault();
      action();
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  });

  const drag = (event: PointerEvent) => {
    if ((event.currentTarget as HTMLElement).hasPointerCapture(event.pointerId)) playhead.seek(timeAt(event.clientX));
  };
  const onPointerDown = (event: PointerEvent) => {
    if ((event.target as HTMLElement).closest(".mark")) return;
    (event.currentTarget as HTMLElement).setPointerCapture(event.pointerId);
    if (playhead.playing) playhead.toggle();
    playhead.seek(timeAt(event.clientX));
  };
  useEffect(() => {
    // Not as an attribute: a listener that may keep the page from scrolling has to be declared so.
    const onWheel = (event: WheelEvent) => {
      event.preventDefault();
      if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
        const by = ((event.deltaX || event.deltaY) / width) * (playhead.until - playhead.from);
        playhead.show(playhead.from + by, playhead.until + by);
      } else playhead.zoom(1.2 ** Math.sign(event.deltaY), timeAt(event.clientX));
    };
    const element = axis.current!;
    element.addEventListener("wheel", onWheel, { passive: false });
    return () => element.removeEventListener("wheel", onWheel);
  });

  const near: Mark[][] = [];
  for (const mark of marks) {
    if (mark.at < playhead.from || mark.at > playhead.until) continue;
    const last = near[near.length - 1];
    if (last && ((mark.at - last[0]!.at) / span) * width < NEAR) last.push(mark);
    else near.push([mark]);
  }
  const shownTicks = ticks(playhead.from, playhead.until, width);
  const digits = shownTicks.length > 1 && shownTicks[1]! - shownTicks[0]! < SECOND ? Math.min(3, Math.ceil(-Math.log10((shownTicks[1]! - shownTicks[0]!) / SECOND))) : 0;
  const zoomed = span < playhead.length * 0.999;
  const marked = marks.filter(({ at }) => Math.abs(at - playhead.at) < 1e6);
  return (
    <section class="timeline" aria-label="Time">
      <div class="controls">
        <button class="icon" title="Message before (←)" aria-label="Message before" onClick={() => step(false)}><Icon path="M12 3 6 8l6 5zM4 3v10" /></button>
        <button class="icon play" title="Play, or pause (Space)" aria-label={playhead.playing ? "Pause" : "Play"} aria-pressed={playhead.playing} onClick={() => playhead.toggle()}>
          <Icon path={playhead.playing ? "M5 3v10M11 3v10" : "M4 2.500 13 8l-9 5.500z"} />
        </button>
        <button class="icon" title="Next message (→)" aria-label="Next message" onClick={() => step(true)}><Icon path="M4 3l6 5-6 5zM12 3v10" /></button>
        <select aria-label="Speed" title="Speed" value={String(playhead.speed)} onChange={(event) => playhead.setSpeed(Number(event.currentTarget.value))}>
          {SPEEDS.map((speed) => <option key={speed} value={String(speed)}>{speed} ×</option>)}
        </select>
        <p class="moment">
          <b>{clockOf(playhead.at)}</b>
          <span class="quiet"> / {clockOf(playhead.length)}{first ? ` · ${clock(first.about.first + playhead.at / 1e6)}` : ""}</span>
        </p>
        <p class="here" role="status">{marked.map((mark) => sentence(mark).replace(/^\S+ /, "")).join(" · ")}</p>
        {marks.length > 0 && (
          <>
            <IconButton path="M10 3 5 8l5 5" label="Mark before ([)" onClick={() => toMark(false)} />
            <span class="quiet count">{marks.length} mark{marks.length > 1 ? "s" : ""}</span>
            <IconButton path="M6 3l5 5-5 5" label="Next mark (])" onClick={() => toMark(true)} />
          </>
        )}
        {zoomed && <button class="button" title="Show all of the time" onClick={() => playhead.show(0, playhead.length)}>All</button>}
        {props.onLive && <button class="button strong" title="Go back to the present (End)" onClick={props.onLive}>Live</button>}
      </div>
      <div
        class="axis"
        ref={axis}
        role="slider"
        tabIndex={0}
        aria-label="Moment"
        aria-valuemin={0}
        aria-valuemax={Math.round(playhead.length / 1e6)}
        aria-valuenow={Math.round(playhead.at / 1e6)}
        aria-valuetext={clockOf(playhead.at)}
        title="Drag to move; turn the wheel to zoom, with Shift to pan"
        onPointerDown={onPointerDown}
        onPointerMove={drag}
        onDblClick={() => playhead.show(0, playhead.length)}
      >
        {first && <Activity past={first} from={playhead.from} until={playhead.until} />}
        {shownTicks.map((at) => <span key={at} class="tick" style={{ left: `${place(at)}%` }}>{clockOf(at, digits)}</span>)}
        {near.map((some) => (
          <button
            key={some[0]!.at}
            class="mark"
            data-tone={worst(some)}
            style={{ left: `${place(some[0]!.at)}%` }}
            title={some.slice(0, 8).map(sentence).join("\n") + (some.length > 8 ? `\n… ${some.length - 8} more` : "")}
            aria-label={some.map(sentence).slice(0, 3).join(", ")}
            onClick={() => playhead.seek(some[0]!.at)}
          />
        ))}
        {playhead.at >= playhead.from && playhead.at <= playhead.until && <i class="cursor" style={{ left: `${place(playhead.at)}%` }} />}
      </div>
    </section>
  );
}

function worst(marks: Mark[]): string {
  const tones = marks.map(({ kind }) => KINDS[kind]?.tone ?? "near");
  return ["bad", "warn", "near", "rest"].find((tone) => tones.includes(tone))!;
}

/** How many bytes came when, as an area behind the axis. */
function Activity({ past, from, until }: { past: Past; from: number; until: number }) {
  const { activity, length } = past.about;
  const most = Math.max(1, ...activity);
  const part = length / activity.length;
  // Nanoseconds are too many for the coordinates of a drawing.
  const path = activity.map((rate, index) => `L${index} ${1 - rate / most}L${index + 1} ${1 - rate / most}`).join("");
  return (
    <svg class="activity" viewBox={`${from / part} 0 ${(until - from) / part} 1`} preserveAspectRatio="none" aria-hidden="true">
      <path d={`M0 1${path}L${activity.length} 1z`} />
    </svg>
  );
}
