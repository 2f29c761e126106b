// The arrangement of previews: kept for each dataflow, saved to a file, and loaded from one.

import { useRef } from "preact/hooks";
import { IconButton, useStored } from "./hooks";
import type { Panel } from "./panels";
import { say } from "./toasts";

export interface StoredLayout {
  name: string; // of the dataflow, or its file
  panels: Panel[] | null; // null: the most informative outputs
  setPanels: (panels: Panel[] | null) => void;
}

/** Return the arrangement that the browser remembers for a dataflow. */
export function useLayout(name: string): StoredLayout {
  const [panels, setPanels] = useStored<Panel[] | null>(`panels ${name}`, null);
  return { name, panels, setPanels };
}

const VERSION = 1;

/** Return the panels in a file; throws an `Error` with a sentence about what is wrong with it. */
export function panelsIn(text: string): Panel[] {
  let value: { dora_layout?: unknown; panels?: unknown };
  try {
    value = JSON.parse(text) ?? {};
  } catch {
    throw new Error("this file is no layout: it is not JSON");
  }
  if (typeof value.dora_layout !== "number") throw new Error("this file is no layout that this page has saved");
  if (value.dora_layout !== VERSION) throw new Error(`this layout has version ${value.dora_layout}, and this page reads ${VERSION}`);
  const isPanel = (item: Partial<Panel> | null) => typeof item?.topic === "string" && Number.isFinite(item.wide) && Number.isFinite(item.high);
  if (!Array.isArray(value.panels) || !value.panels.every(isPanel)) throw new Error("this layout is damaged: it has no list of previews");
  return value.panels.map(({ topic, wide, high }: Panel) => ({ topic, wide: Math.max(1, wide), high: Math.max(0, high) }));
}

/** Buttons that save the arrangement to a file and load one. `shown`: what is shown if nothing was arranged. */
export function LayoutButtons(props: { layout: StoredLayout; shown: Panel[] }) {
  const { layout } = props;
  const input = useRef<HTMLInputElement>(null);
  const save = () => {
    const text = JSON.stringify({ dora_layout: VERSION, panels: layout.panels ?? props.shown }, null, 2);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = `${layout.name.split("/").pop()!.replace(/\.[a-z]+$/, "")}-layout.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  const load = async (file: File) => {
    try {
      layout.setPanels(panelsIn(await file.text()));
    } catch (error) {
      say({ text: `${file.name}: ${(error as Error).message}`, bad: true });
    }
  };
  return (
    <span class="layouts">
      <IconButton path="M8 2v8M5 7l3 3 3-3M3 13h10" label="Save this layout to a file" onClick={save} />
      <IconButton path="M8 10V2M5 5l3-3 3 3M3 13h10" label="Load a layout from a file" onClick={() => input.current!.click()} />
      <input
        ref={input}
        type="file"
        accept=".json,application/json"
        aria-label="File of a layout"
        hidden
        onChange={(event) => {
          const [file] = event.currentTarget.files ?? [];
          if (file) void load(file);
          event.currentTarget.value = "";
        }}
      />
    </span>
  );
}
