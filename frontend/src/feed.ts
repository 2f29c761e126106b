// What happens in one dataflow, or happened: the same for a run and for a recording of one.

import type { Graph } from "./graph";
import type { Line, Listed, State } from "./model";

export interface Head {
  topic: string;
  kind: "image" | "boxes" | "points" | "transforms" | "series" | "curve" | "table" | "text" | "values" | "problem";
  type: string;
  length: number;
  bytes: number;
  number: number;
  time: number;
  stamp: number; // microseconds since the Unix epoch: of the source, if the sender has passed it on
  metadata: Record<string, unknown>;
  // By kind.
  width: number;
  height: number;
  media_type: string;
  shown: [number, number];
  boxes: [x: number, y: number, width: number, height: number, label: string, name: string, colour: string][]; // name: the class
  count: number;
  line?: boolean; // the points are the corners of one line
  cubes?: Cube[]; // boxes in space
  transforms: [parent: string, child: string, x: number, y: number, z: number, qx: number, qy: number, qz: number, qw: number][];
  names: string[];
  pose?: number[]; // x, y, z and a quaternion, of a series that is one
  steps: Values[];
  curve: (number | null)[];
  least: number | null;
  greatest: number | null;
  mean: number | null;
  columns: string[];
  rows: unknown[][];
  texts: string[];
  values: unknown[];
  problem: string;
}

/** The values of a moment, in milliseconds since the Unix epoch. */
export type Values = [at: number, values: (number | null)[], pose?: number[]];

/** A box in space: its middle, half its size, its label and its class. */
export type Cube = [x: number, y: number, z: number, dx: number, dy: number, dz: number, label: string, name: string];

export interface Preview {
  head: Head;
  body: ArrayBuffer;
}

export interface Found {
  ticket: number;
  total: number;
  complete?: boolean; // false: there are more, which were not counted
  entries: Line[];
}

export type Channel = "connection" | "graph" | "state" | "samples" | "lines" | "kinds" | "differences" | `preview ${string}`;

/** Figures of one moment, for curves. */
export interface Sample {
  at: number; // milliseconds since the Unix epoch, by the clock of the server
  cpu: Record<string, number>; // by node
  links: Record<string, [hz: number, latency: number | null, dropping_hz: number]>; // by source and target
}

export const MINUTE = 60; // seconds that are kept of samples
const KEPT_FRAMES = 60; // pictures and boxes of a topic that are kept, so that they find each other
const KEPT_BYTES = 12e6;
const MAX_STEPS = 1200; // of a curve over time

const MAX_LINES = 3000;

/** What is known of one dataflow at the moment that is shown; calls subscribers when it changes. */
export abstract class Feed {
  connection: "opening" | "open" | "lost" | "ended" = "opening";
  graph: Graph | null = null;
  state: State | null = null;
  lines: Line[] = [];
  outcome: Listed | null = null; // how the dataflow ended
  gone = false; // the server as well: what is here stays
  arrived = 0; // lines, since the page was opened
  skipped = 0;
  history: Sample[] = []; // of the last minute
  paused = false; // previews stay as they are
  /** Whether it is a recording, in which a user moves. */
  abstract readonly isPast: boolean;
  /** The last pictures and boxes of each topic, oldest first. */
  readonly recent = new Map<string, Preview[]>();
  readonly previews = new Map<string, Preview>();
  readonly heads = new Map<string, Head>(); // the last known of each topic, also at a moment at which it has sent nothing yet
  readonly steps = new Map<string, Values[]>();
  protected topics = new Map<string, number>(); // topic → how many look
  private listeners = new Map<string, Set<() => void>>();

  on(channel: Channel, listener: () => void): () => void {
    const some = this.listeners.get(channel) ?? new Set();
    this.listeners.set(channel, some.add(listener));
    return () => some.delete(listener);
  }

  /** Look at a topic until the function that is returned is called. */
  look(topic: string): () => void {
    this.topics.set(topic, (this.topics.get(topic) ?? 0) + 1);
    queueMicrotask(() => this.tell());
    return () => {
      const count = this.topics.get(topic)! - 1;
      if (count) this.topics.set(topic, count);
      else this.topics.delete(topic);
      queueMicrotask(() => this.tell());
    };
  }

  abstract close(): void;

  /** Search the complete log. */
  abstract search(node: string, level: string, text: string): Promise<Omit<Found, "ticket">>;

  /** Keep the previews as they are, or let them go on. */
  pause(paused: boolean): void {
    this.paused = paused;
    this.tell();
    this.emit("connection");
  }

  measureLatency(_: boolean): void {}

  /** Get the previews of what is looked at. */
  protected abstract tell(): void;

  protected addLines(lines: Line[], skipped: number): void {
    this.lines = [...this.lines, ...lines].slice(-MAX_LINES);
    this.arrived += lines.length;
    this.skipped += skipped;
    this.emit("lines");
  }

  /** Take note of a preview; `isShown`: it is what its topic shows now, not only a frame that boxes belong to. */
  protected addPreview(preview: Preview, isShown = true): void {
    const { head } = preview;
    if (head.kind === "image" || head.kind === "boxes") this.remember(preview);
    if (!isShown) {
      this.emit(`preview ${head.topic}`);
      return;
    }
    const known = this.heads.get(head.topic)?.kind;
    this.previews.set(head.topic, preview);
    this.heads.set(head.topic, head);
    this.emit(`preview ${head.topic}`);
    if (head.kind !== known) this.emit("kinds");
  }

  protected addSteps(topic: string, steps: Values[]): void {
    this.steps.set(topic, [...(this.steps.get(topic) ?? []), ...steps].slice(-MAX_STEPS));
  }

  private remember(preview: Preview): void {
    const others = (this.recent.get(preview.head.topic) ?? []).filter((other) => other.head.number !== preview.head.number);
    const kept = [...others, preview].slice(-KEPT_FRAMES);
    let bytes = kept.reduce((sum, { body }) => sum + body.byteLength, 0);
    while (bytes > KEPT_BYTES && kept.length > 1) bytes -= kept.shift()!.body.byteLength;
    this.recent.set(preview.head.topic, kept);
  }

  protected emit(channel: Channel): void {
    for (const listener of this.listeners.get(channel) ?? []) listener();
  }
}
