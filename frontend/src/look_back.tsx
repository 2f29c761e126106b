// The time below the page of a run: live at its right end, the black box to the left of it.

import { useState } from "preact/hooks";
import type { Feed } from "./feed";
import type { Chosen } from "./panes";
import { Reader } from "./past";
import { ask } from "./server";
import { Timeline } from "./timeline";
import { say } from "./toasts";
import { type Opened, openAll, stepTopicsOf, useMarks } from "./viewed";

const SHOWN = 30; // seconds that the axis of a run shows
const NS = 1e9;

/** The time of a run at its present: a click to the left of the right end looks back. */
export function AxisOfRun(props: { uuid: string; live: Feed; onLookBack: (opened: Opened) => void }) {
  const [busy, setBusy] = useState(false);
  const [note, setNote] = useState("");
  const lookBack = async (ago: number) => {
    setBusy(true);
    try {
      const { history } = await ask<{ history: string }>("POST", `/dashboard/${props.uuid}/past`, {});
      const reader = new Reader(history);
      const opened = openAll(reader, await reader.about());
      // What the page has shown keeps its place, also where the black box has less.
      for (const past of opened.pasts) {
        past.isTemporary = true;
        props.live.heads.forEach((head, topic) => past.heads.set(topic, head));
      }
      opened.playhead.seek(opened.playhead.length - ago * NS);
      props.onLookBack(opened);
    } catch (error) {
      say({ text: (error as Error).message, bad: true });
      setBusy(false);
    }
  };
  const save = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    try {
      const { path } = await ask<{ path: string }>("POST", `/dashboard/${props.uuid}/save`, { note });
      say({ text: "The last seconds are in", recording: path });
      setNote("");
    } catch (error) {
      say({ text: (error as Error).message, bad: true });
    }
    setBusy(false);
  };
  const onClick = (event: MouseEvent) => {
    const area = (event.currentTarget as HTMLElement).getBoundingClientRect();
    void lookBack((SHOWN * (area.right - event.clientX)) / area.width);
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key !== "ArrowLeft" && event.key !== "Enter") return;
    event.preventDefault();
    void lookBack(1);
  };
  return (
    <section class="timeline" aria-label="Time" aria-busy={busy}>
      <div class="controls">
        <button class="button" disabled={busy} title="Stop here, and look at the last seconds" onClick={() => void lookBack(0)}>Look back</button>
        <p class="here quiet">{busy ? "Reading the black box …" : ""}</p>
        <form class="save" onSubmit={save}>
          <input value={note} placeholder="Note" aria-label="Note" maxLength={500} onInput={(event) => setNote(event.currentTarget.value)} />
          <button class="button" disabled={busy} title="Save the last seconds as a recording, with the note as a mark">Save</button>
        </form>
      </div>
      <div class="axis" role="slider" tabIndex={0} aria-label="Moment" aria-valuemin={-SHOWN} aria-valuemax={0} aria-valuenow={0} aria-valuetext="live" title="Click to look back" onClick={onClick} onKeyDown={onKeyDown}>
        {[30, 20, 10].map((ago) => <span key={ago} class="tick" style={{ left: `${100 - (100 * ago) / SHOWN}%` }}>−{ago} s</span>)}
        <i class="cursor" style={{ left: "100%" }} />
      </div>
    </section>
  );
}

/** The time of a run while a user looks back. */
export function AxisOfPast(props: Opened & { chosen: Chosen; onLive: () => void }) {
  const { marks } = useMarks(props.pasts);
  return <Timeline playhead={props.playhead} pasts={props.pasts} marks={marks} stepTopics={() => stepTopicsOf(props.pasts[0]!, props.chosen)} onLive={props.onLive} />;
}
