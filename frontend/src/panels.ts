// Which outputs have a preview in the grid, in which order and size.

import { type Graph, isGiven } from "./graph";
import { fullName } from "./model";
import type { Feed, Head } from "./feed";

/** A preview in the grid: how many columns and rows it takes; 0 rows: as many as its content needs. */
export interface Panel {
  topic: string;
  wide: number;
  high: number;
}

export const ROW = 26; // pixels of a row with its gap, as in dashboard.css
export const LOWEST = 6; // rows of a panel
export const GAP = 8;
const NARROWEST = 280; // pixels of a column
const SHOWN = 6; // that are chosen without a user
const PROBED = 12; // at a time, to learn what an output carries

const ORDER: Head["kind"][] = ["boxes", "image", "points", "transforms", "series", "curve", "table", "text", "values", "problem"];
const NAMES: [RegExp, Head["kind"]][] = [
  [/bbox|boxes|detection|BoundingBox/i, "boxes"],
  [/image|frame|color|rgb|picture|depth|mask/i, "image"],
  [/cloud|points/i, "points"],
];

/** Return all outputs whose messages can be shown, in the order of the dataflow. */
export function topicsOfGraph(graph: Graph): string[] {
  return graph.boxes.filter((box) => !isGiven(box)).flatMap((box) => topicsOf(graph, box.id));
}

/** Return the outputs of a box whose messages can be shown: not those that are lines of text. */
export function topicsOf(graph: Graph, id: string): string[] {
  const box = graph.boxes.find((candidate) => candidate.id === id);
  const text = (output: string) => graph.edges.some((edge) => edge.source === id && edge.output === output && edge.kind === "text");
  return box && !isGiven(box) ? box.outputs.filter((output) => !text(output)).map((output) => fullName(box, output)) : [];
}

/** Choose the most informative outputs, of many kinds rather than many of one kind, among those that have sent something, and outputs to look at to learn what they carry. */
export function chooseOutputs(topics: string[], feed: Feed): { shown: Panel[]; probed: string[] } {
  const guess = (topic: string) => {
    const index = NAMES.findIndex(([name]) => name.test(topic));
    return index < 0 ? NAMES.length : index;
  };
  const known = topics.filter((topic) => feed.heads.has(topic));
  const place = (topic: string) => ORDER.indexOf(feed.heads.get(topic)!.kind);
  const ranked = known.sort((a, b) => place(a) - place(b));
  const rounds = new Map<string, number>(); // topic → how many of its kind come before it
  ranked.forEach((topic, index) => rounds.set(topic, ranked.slice(0, index).filter((other) => place(other) === place(topic)).length));
  const shown = [...ranked]
    .sort((a, b) => rounds.get(a)! - rounds.get(b)!)
    .slice(0, SHOWN)
    .sort((a, b) => place(a) - place(b));
  const busy = new Set(feed.state?.links.filter((link) => link.hz > 0).map((link) => link.source));
  const unknown = topics
    .filter((topic) => !feed.heads.has(topic))
    .sort((a, b) => Number(busy.has(b)) - Number(busy.has(a)) || guess(a) - guess(b));
  return { shown: shown.map((topic) => ({ topic, wide: 1, high: 0 })), probed: unknown.slice(0, PROBED - shown.length) };
}

/** Return the number of columns of a grid: few panels are large. */
export function columnsFor(width: number, panels: number): number {
  return Math.max(1, Math.min(Math.floor((width + GAP) / NARROWEST), Math.ceil(Math.sqrt(panels))));
}

/** Return the rows that a panel takes by itself: a picture is shown whole, and nothing is higher than the pane. */
export function rowsFor(head: Head | undefined, width: number, most: number): number {
  return Math.max(LOWEST, Math.min(most, contentRows(head, width)));
}

function contentRows(head: Head | undefined, width: number): number {
  const rows = (pixels: number) => Math.ceil((pixels + GAP) / ROW);
  const around = 76; // header, facts and padding
  switch (head?.kind) {
    case "image":
      return rows((width - 22) * (head.width ? head.height / head.width : 0.75) + around); // a file may not tell its size
    case "boxes":
      return rows((width - 22) * 0.75 + around);
    case "points":
    case "transforms":
      return rows(Math.min(width - 22, 340) + around);
    case "series":
    case "curve":
      return 10;
    case "table":
      return rows(24 * (head.rows.length + 1) + around);
    case "text":
      return Math.min(10, rows(18 * head.texts.length + around));
  }
  return LOWEST;
}
