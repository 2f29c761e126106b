// A recording that a user looks back into: the moment that is shown, and what was true then.

import { Feed, type Found, type Head, MINUTE, type Preview, type Sample, type Values } from "./feed";
import type { Graph } from "./graph";
import { type Line, type State, whole } from "./model";
import { fetched, Refused } from "./server";

/** A recording as the server describes it; times are nanoseconds since its first message. */
export interface RecordingAbout {
  name: string;
  path: string;
  size: number; // bytes
  first: number; // milliseconds since the Unix epoch
  length: number;
  opens_at: number; // the moment that is shown first
  trouble: string; // what is missing
  own: boolean; // dora wrote it
  has_state: boolean; // losses, loads and queues were recorded
  nodes: string[];
  host: string;
  file: string | null;
  dora: string;
  failed: string[];
  graph: Graph;
  activity: number[]; // bytes a second in equal parts of the time
  outputs: { name: string; type: string; messages: number }[];
}

export interface Mark {
  at: number;
  kind: string;
  node: string | null;
  text: string;
}

/** Where the messages of an output differ between two recordings. */
export interface Difference {
  topic: string;
  first: number; // messages
  second: number;
  different: number;
  places: [at: number, message: number, what: string][];
}

/** Asks the server about some recordings. */
export class Reader {
  constructor(private id: string) {}

  about = () => this.ask<RecordingAbout[]>({ type: "about" });
  /** Give the marks of a recording to a function, the newest first: there may be many in a long one. */
  async marks(recording: number, take: (marks: Mark[]) => void): Promise<void> {
    let before: number | null = null;
    do {
      const found: { marks: Mark[]; before: number | null } = await this.ask({ type: "marks", recording, before });
      take(found.marks);
      before = found.before;
    } while (before !== null);
  }

  differences = () => this.ask<Difference[]>({ type: "differences" });

  async ask<T>(question: object): Promise<T> {
    return JSON.parse(new TextDecoder().decode(await this.raw(question))) as T;
  }

  raw(question: object): Promise<ArrayBuffer> {
    return fetched(`/history/${encodeURIComponent(this.id)}`, question);
  }
}

export const SPEEDS = [0.1, 0.25, 0.5, 1, 2, 5, 10];
const NS = 1e9;
const LONGEST_FRAME = 0.25; // seconds that one frame moves on: a hidden tab does not jump
const CLOSEST = 0.02 * NS; // the shortest span that the axis shows

/** The moment that all recordings of a page show. Times are nanoseconds since the first message. */
export class Playhead {
  at = 0;
  playing = false;
  speed = 1;
  from: number; // what the axis shows
  until: number;
  private last = 0; // milliseconds of the last frame
  private listeners = new Set<() => void>();
  /** Returns whether all that is shown has followed. */
  isReady = () => true;

  constructor(public length: number) {
    this.from = 0;
    this.until = this.length;
  }

  on(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  seek(at: number): void {
    this.at = Math.round(Math.max(0, Math.min(this.length, at)));
    const width = this.until - this.from;
    if (this.at < this.from || this.at > this.until) this.show(this.at - width / 2, this.at + width / 2);
    else this.changed();
  }

  /** Show a span of time on the axis. */
  show(from: number, until: number): void {
    const width = Math.min(this.length, Math.max(CLOSEST, until - from));
    this.from = Math.max(0, Math.min(this.length - width, from));
    this.until = this.from + width;
    this.changed();
  }

  /** Show more or less of the time, around a moment that stays in its place. */
  zoom(factor: number, around = this.at): void {
    this.show(around - (around - this.from) * factor, around + (this.until - around) * factor);
  }

  toggle(): void {
    this.playing = !this.playing;
    if (this.playing && this.at >= this.length) this.at = 0;
    this.last = performance.now();
    if (this.playing) requestAnimationFrame(this.frame);
    this.changed();
  }

  setSpeed(speed: number): void {
    this.speed = speed;
    this.changed();
  }

  private frame = (now: number): void => {
    if (!this.playing) return;
    if (this.isReady()) {
      const seconds = Math.min(LONGEST_FRAME, Math.max(0, now - this.last) / 1000);
      this.last = now;
      if (this.at + seconds * this.speed * NS >= this.length) this.playing = false;
      this.seek(this.at + seconds * this.speed * NS);
    }
    if (this.playing) requestAnimationFrame(this.frame);
  };

  private changed(): void {
    for (const listener of this.listeners) listener();
  }
}

const SAMPLE_EVERY = 1000; // milliseconds
const CURVE_POINTS = 800;
const AROUND = 0.1; // of what the axis shows, which curves have on either side
const SETTLED = 150; // milliseconds without another moment, after which the last minute is read
const BACK = 0.5; // seconds that a moment may follow the one before, so that logs and poses go on

/** A curve over time: what is known of it for what the axis shows. */
interface LongCurve {
  from: number;
  until: number;
  steps: Values[];
  complete: boolean;
}

/** Follows one recording to the moment that the playhead shows. */
export class Past extends Feed {
  readonly isPast = true;
  readonly curves = new Map<string, LongCurve>();
  differences = new Map<string, Difference>(); // by topic, if it is the second of two
  trouble = "";
  isTemporary = false; // its file goes when the page is closed
  private have = new Map<string, number>(); // topic → time of the message that is shown
  private shown: number | null = null; // the moment that everything belongs to
  private busy = false;
  private again = false;
  private closed = false;
  private over = new Map<string, string>();
  private settled: number | undefined;
  private readingCurves = false;
  private off: () => void;
  private axis = "";

  constructor(
    readonly reader: Reader,
    readonly number: number,
    readonly about: RecordingAbout,
    readonly playhead: Playhead,
  ) {
    super();
    this.connection = "open";
    this.graph = about.graph;
    this.off = playhead.on(() => this.tell());
    this.tell();
  }

  /** Whether what is shown belongs to the moment of the playhead. */
  get isReady(): boolean {
    return !this.busy;
  }

  /** The moment in this recording: the playhead may be behind its end. */
  get at(): number {
    return Math.min(this.playhead.at, this.about.length);
  }

  close(): void {
    this.closed = true;
    clearTimeout(this.settled);
    this.off();
  }

  /** Set which output has the frames that boxes belong to. */
  drawOver(topic: string, frames: string): void {
    if (this.over.get(topic) === frames) return;
    this.over.set(topic, frames);
    this.have.delete(topic);
    this.tell();
  }

  search(node: string, level: string, text: string): Promise<Omit<Found, "ticket">> {
    return this.reader.ask({ type: "search", recording: this.number, at: this.at, node, level, text });
  }

  parameters(node: string): Promise<Record<string, unknown>> {
    return this.reader.ask({ type: "parameters", recording: this.number, at: this.at, node });
  }

  pixel(topic: string, x: number, y: number): Promise<{ text: string }> {
    return this.reader.ask({ type: "pixel", recording: this.number, topic, at: this.at, x, y });
  }

  /** Take note of where this recording and another one differ. */
  compareTo(differences: Difference[]): void {
    this.differences = new Map(differences.map((item) => [item.topic, item]));
    this.emit("differences");
  }

  /** Return how the message of a topic that is shown differs from its counterpart; "" if it does not. */
  differenceOf(topic: string): string {
    const difference = this.differences.get(topic);
    if (!difference?.different) return "";
    const at = this.have.get(topic);
    // The places have the times of the first recording, and count messages of both.
    const number = this.previews.get(topic)?.head.number;
    const here = difference.places.find((place) => (this.number === 0 ? place[0] === at : place[1] === number));
    return here ? here[2] : `${whole(difference.different)} message${difference.different > 1 ? "s" : ""} of this output differ`;
  }

  /** Move to the next message of some topics, or to the one before. */
  async step(topics: string[], forward: boolean): Promise<void> {
    const { at } = await this.reader.ask<{ at: number | null }>({ type: "step", recording: this.number, at: this.at, forward, topics });
    if (at !== null) this.playhead.seek(at);
  }

  /** Return the topics that are on the screen. */
  get shownTopics(): string[] {
    return [...this.topics.keys()];
  }

  protected tell(): void {
    this.again = true;
    if (!this.busy && !this.closed) void this.follow();
    const axis = `${this.playhead.from} ${this.playhead.until}`;
    if (axis !== this.axis) {
      this.axis = axis;
      this.emit("samples"); // curves have another span
    }
    clearTimeout(this.settled);
    this.settled = window.setTimeout(() => void this.settle(), SETTLED);
  }

  private async follow(): Promise<void> {
    this.busy = true;
    while (this.again && !this.closed) {
      this.again = false;
      const at = this.at;
      const goesOn = this.shown !== null && at >= this.shown && at - this.shown <= BACK * NS * Math.max(1, this.playhead.speed);
      const topics = Object.fromEntries([...this.topics.keys()].map((topic) => [topic, this.have.get(topic) ?? -1]));
      const over = Object.fromEntries([...this.over].filter(([topic, frames]) => topic in topics && frames));
      try {
        this.take(await this.reader.raw({ type: "moment", recording: this.number, at, topics, over, since: goesOn ? this.shown : null }), at, goesOn);
        if (this.trouble) this.report("");
      } catch (error) {
        this.report(error instanceof Refused ? error.message : "No connection to dora: the command that serves this page has ended.");
        break;
      }
    }
    this.busy = false;
  }

  private report(trouble: string): void {
    this.trouble = trouble;
    this.emit("connection");
  }

  private take(data: ArrayBuffer, at: number, goesOn: boolean): void {
    if (this.closed) return;
    const size = new DataView(data).getUint32(0, true);
    const message: { state: State | null; lines: Line[]; previews: (Head & { at: number; size: number; frame?: boolean })[] } = JSON.parse(
      new TextDecoder().decode(new Uint8Array(data, 4, size)),
    );
    this.shown = at;
    this.state = message.state;
    this.emit("state");
    if (goesOn && this.state) this.addSample(at, this.state);
    if (!goesOn) {
      this.lines = [];
      this.steps.clear();
    }
    if (message.lines.length || !goesOn) this.addLines(message.lines, 0);
    let offset = 4 + size;
    for (const { size: bytes, frame, ...head } of message.previews) {
      const body = data.slice(offset, offset + bytes);
      offset += bytes;
      if ((head.kind as string) === "none") this.forget(head.topic);
      else this.addMoment({ head, body }, head.at, !frame);
    }
  }

  /** Let the curves of the last minute go on while it plays. */
  private addSample(at: number, state: State): void {
    const now = this.about.first + at / 1e6;
    const last = this.history[this.history.length - 1]?.at ?? 0;
    if (now - last < SAMPLE_EVERY) return;
    const sample: Sample = {
      at: now,
      cpu: Object.fromEntries(state.nodes.flatMap(({ id, cpu }) => (cpu === null ? [] : [[id, cpu]]))),
      links: Object.fromEntries(state.links.map((link) => [`${link.source} ${link.target}`, [link.hz, link.latency?.[0] ?? null, link.dropping_hz]])),
    };
    this.history = [...this.history.filter((other) => other.at >= now - 1000 * MINUTE), sample];
    this.emit("samples");
  }

  private addMoment(preview: Preview, at: number, isShown: boolean): void {
    const { topic } = preview.head;
    if (isShown) this.have.set(topic, at);
    if (preview.head.kind === "series") this.addSteps(topic, preview.head.steps.length ? preview.head.steps : [[preview.head.time, (preview.head as unknown as { values: (number | null)[] }).values, ...(preview.head.pose ? [preview.head.pose] : [])] as Values]);
    this.addPreview(preview, isShown);
  }

  /** Show nothing of a topic: it has sent nothing yet. */
  private forget(topic: string): void {
    this.have.delete(topic);
    if (!this.previews.delete(topic)) return;
    this.recent.delete(topic);
    this.emit(`preview ${topic}`);
    this.emit("kinds");
  }

  // ------------------------------------------------------------------ what takes longer

  /** Read the last minute, and the curves of what the axis shows. */
  private async settle(): Promise<void> {
    if (this.closed) return;
    const { at } = this;
    const begin = Math.max(0, at - MINUTE * NS);
    let before = at;
    let samples: Sample[] = [];
    try {
      // The newest part comes first: in a large file a minute may take a while.
      do {
        const found = await this.reader.ask<{ samples: Sample[]; from: number }>({ type: "minute", recording: this.number, at, before });
        if (this.at !== at || this.closed) return;
        samples = [...found.samples, ...samples];
        this.history = samples;
        this.emit("samples");
        if (found.from >= before) break;
        before = found.from;
      } while (before > begin);
    } catch {
      // The moment says what is wrong.
    }
    void this.readCurves();
  }

  /** Return the steps of a topic around the span that the axis shows, as far as they are read. */
  curveOf(topic: string): Values[] {
    return this.curves.get(topic)?.steps ?? [];
  }

  private async readCurves(): Promise<void> {
    if (this.readingCurves) return;
    this.readingCurves = true;
    try {
      for (let next = this.missing(); next && !this.closed; next = this.missing()) {
        const [topic, curve] = next;
        const { from, until } = curve;
        const end = curve.steps.length ? Math.round((curve.steps[0]![0] - this.about.first) * 1e6) - 1 : until;
        const points = Math.max(50, Math.round((CURVE_POINTS * (end - from)) / (until - from || 1)));
        const found = await this.reader.ask<{ steps: Values[]; from: number }>({ type: "curve", recording: this.number, topic, after: from, until: end, points });
        curve.steps = [...found.steps, ...curve.steps];
        curve.complete = found.from <= from || found.steps.length === 0;
        this.emit(`preview ${topic}`);
      }
    } catch {
      // The moment says what is wrong; the next one reads them.
    }
    this.readingCurves = false;
  }

  /** Return a curve on the screen that is not complete for what the axis shows. */
  private missing(): [string, LongCurve] | null {
    const { from, until, length } = this.playhead;
    const end = Math.min(until, this.about.length);
    for (const topic of this.topics.keys()) {
      if (this.previews.get(topic)?.head.kind !== "series") continue;
      const known = this.curves.get(topic);
      const covers = known && known.from <= Math.max(0, from) && known.until >= end && known.until - known.from <= 3 * (until - from);
      if (covers && known.complete) continue;
      if (covers) return [topic, known];
      const more = AROUND * (until - from);
      const curve = { from: Math.round(Math.max(0, from - more)), until: Math.round(Math.min(length, this.about.length, until + more)), steps: [], complete: false };
      this.curves.set(topic, curve);
      return [topic, curve];
    }
    return null;
  }
}

/** Return a time as minutes, seconds and milliseconds. */
export function clockOf(at: number, digits = 3): string {
  const seconds = at / NS;
  const minutes = Math.floor(seconds / 60);
  const rest = seconds - 60 * minutes;
  const text = rest.toFixed(digits).padStart(digits ? 3 + digits : 2, "0");
  return minutes >= 60 ? `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${text}` : `${minutes}:${text}`;
}
