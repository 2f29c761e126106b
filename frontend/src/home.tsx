// The dataflows of a coordinator, running and ended.

import { Chip } from "./hooks";
import { duration, folderOf, type Listed, size, titleOf } from "./model";
import { serverTime } from "./server";

export const TONES = { Starting: "warn", Running: "fine", Finished: "rest", Failed: "bad" };

export function HomePane(props: { dataflows: Listed[] | null; onOpen: (uuid: string) => void }) {
  if (props.dataflows === null) return <p class="hint">Asking …</p>;
  const active = (item: Listed) => item.status === "Running" || item.status === "Starting";
  const ordered = [...props.dataflows].sort((a, b) => Number(active(b)) - Number(active(a)) || b.created - a.created);
  return (
    <section class="pane home" aria-label="Dataflows">
      {ordered.length === 0 && <p class="hint">No dataflow was started yet: <code>dora start dataflow.yml</code></p>}
      {ordered.map((item) => (
        <button class="card listed" key={item.uuid} data-uuid={item.uuid} onClick={() => props.onOpen(item.uuid)}>
          <b>{titleOf(item)}</b>
          <Chip tone={item.reason && active(item) ? "bad" : TONES[item.status]}>{item.status}</Chip>
          <span class="quiet">
            {item.nodes.length} node{item.nodes.length === 1 ? "" : "s"} · {when(item)}
            {active(item) && item.memory ? ` · ${item.cpu.toFixed(0)} % · ${size(item.memory)}` : ""}
          </span>
          {item.reason && <span class="bad">{item.reason}</span>}
          <code class="quiet">{folderOf(item)}</code>
          <code class="quiet">{item.uuid}</code>
        </button>
      ))}
    </section>
  );
}

function when(item: Listed): string {
  const now = serverTime();
  if (item.ended !== null) return `ended ${duration(Math.max(0, now - item.ended))} ago`;
  return `for ${duration(Math.max(0, now - item.created))}`;
}
