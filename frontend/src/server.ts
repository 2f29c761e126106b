// Requests to the server, and the stream of what happens in one dataflow.

import type { Graph } from "./graph";
import { endedState, type Line, type Listed, type Source, type State } from "./model";

export class Refused extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

export interface About {
  uuid: string;
  name: string;
  machines: string[]; // by their ids, or this computer by its name
  file: string | null;
  running: boolean;
  here: boolean;
  source: Source | null;
  graph: Graph | null;
}

const KEY = "page"; // of this origin alone, while a cookie goes to every port of a host

/** Keep the key that the page sends with each request, besides the cookie of its browser. */
export const keep = (key: string) => localStorage.setItem(KEY, key);
const kept = () => localStorage.getItem(KEY) ?? "";

let ahead = 0; // milliseconds between the clock of the server and the clock here

/** The time by the clock of the server, in seconds since the Unix epoch: the browser may be on another machine. */
export const serverTime = () => (Date.now() + ahead) / 1000;

/** Ask the server; throws `Refused` with its sentence, or `TypeError` if it is not there. */
export async function ask<T>(method: string, path: string, body?: unknown): Promise<T> {
  const response = await fetch(path, {
    method,
    headers: { "X-Dora-Page": kept(), ...(body === undefined ? {} : { "Content-Type": "application/json" }) },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const date = Date.parse(response.headers.get("Date") ?? "");
  // The header has whole seconds, so a clock that is right seems to be up to a second ahead.
  if (Math.abs(date - Date.now()) > 2000) ahead = date - Date.now();
  if (!response.ok) {
    const told = await response.json().catch(() => ({ error: response.statusText }));
    throw new Refused(response.status, told.error);
  }
  return response.status === 204 ? (undefined as T) : response.json();
}

/** Send a request to a running dataflow, as commands do; returns its answer. */
export const request = <T>(uuid: string, body: { type: string; node: string; key?: string; value?: unknown }) =>
  ask<T>("POST", `/api/dataflows/${encodeURIComponent(uuid)}/requests`, body);

export const dataflows = () => ask<Listed[]>("GET", "/api/dataflows");
export const about = (uuid: string) => ask<About>("GET", `/dashboard/${encodeURIComponent(uuid)}`);

export interface Head {
  topic: string;
  kind: "image" | "boxes" | "points" | "series" | "curve" | "table" | "text" | "values" | "problem";
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
  names: string[];
  steps: [number, (number | null)[]][];
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

export interface Preview {
  head: Head;
  body: ArrayBuffer;
}

export interface Found {
  ticket: number;
  total: number;
  entries: Line[];
}

type Channel = "connection" | "graph" | "state" | "samples" | "lines" | "kinds" | `preview ${string}`;

/** Figures of one moment, for curves. */
export interface Sample {
  at: number; // milliseconds since the Unix epoch, by the clock of the server
  cpu: Record<string, number>; // by node
  links: Record<string, [hz: number, latency: number | null, dropping_hz: number]>; // by source and target
}

export const MINUTE = 60; // seconds that are kept of samples
const KEPT_FRAMES = 60; // pictures and boxes of a topic that are kept, so that they find each other
const KEPT_BYTES = 12e6;
const MAX_LINES = 3000;
const MAX_STEPS = 1200; // of a curve over time
const RETRY = 1000; // milliseconds

/** Follows one dataflow and calls subscribers when something changes. */
export class Live {
  connection: "opening" | "open" | "lost" | "ended" = "opening";
  graph: Graph | null = null;
  state: State | null = null;
  lines: Line[] = [];
  outcome: Listed | null = null; // how the dataflow ended
  gone = false; // the server as well: what is here stays
  arrived = 0; // lines, since the page was opened
  skipped = 0;
  history: Sample[] = []; // of the last minute
  /** The last pictures and boxes of each topic, oldest first. */
  readonly recent = new Map<string, Preview[]>();
  readonly previews = new Map<string, Preview>();
  readonly steps = new Map<string, [number, (number | null)[]][]>();
  private listeners = new Map<string, Set<() => void>>();
  private topics = new Map<string, number>(); // topic → how many look
  private latency = false;
  private socket: WebSocket | null = null;
  private closed = false;
  private searches = new Map<number, { query: object; resolve: (found: Found) => void }>();
  private lastTicket = 0;
  private sent = "";
  private looked: string[] = []; // topics that the server sends previews of
  private interrupted = new Set<string>(); // topics whose curves have a gap now
  paused = false; // previews stay as they are
  private onVisible = () => this.tell();

  constructor(private uuid: string) {
    document.addEventListener("visibilitychange", this.onVisible);
    this.open();
  }

  on(channel: Channel, listener: () => void): () => void {
    const some = this.listeners.get(channel) ?? new Set();
    this.listeners.set(channel, some.add(listener));
    return () => some.delete(listener);
  }

  close(): void {
    this.closed = true;
    document.removeEventListener("visibilitychange", this.onVisible);
    this.socket?.close();
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

  /** Keep the previews as they are, or let them go on. */
  pause(paused: boolean): void {
    this.paused = paused;
    this.tell();
    this.emit("connection");
  }

  measureLatency(wanted: boolean): void {
    this.latency = wanted;
    this.tell();
  }

  /** Search the complete log. */
  search(node: string, level: string, text: string): Promise<Found> {
    const ticket = ++this.lastTicket;
    return new Promise((resolve) => {
      const query = { type: "search", ticket, node, level, text };
      this.searches.set(ticket, { query, resolve });
      this.send(query);
    });
  }

  private open(): void {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}/dashboard/${encodeURIComponent(this.uuid)}/live`, ["dora", `page.${kept()}`]);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    let opened = false;
    socket.onopen = () => {
      opened = true;
      this.lines = [];
      this.sent = "";
      this.looked.forEach((topic) => this.interrupted.add(topic));
      this.connection = "open";
      this.tell();
      // Repeat the queries that the former connection has not answered.
      for (const { query } of this.searches.values()) this.send(query);
      this.emit("connection");
    };
    socket.onmessage = ({ data }) => (typeof data === "string" ? this.take(data) : this.takePreview(data));
    socket.onclose = () => {
      if (this.closed) return;
      if (this.outcome) {
        this.gone = true;
        this.emit("connection");
        return;
      }
      // An end whose outcome did not come, and then no server either: the run was killed.
      if (this.connection !== "ended" || !opened) this.connection = "lost";
      this.emit("connection");
      setTimeout(() => this.closed || this.open(), RETRY);
    };
  }

  private take(data: string): void {
    if (data === "{}") {
      // The next delivery is wanted when this one is on the screen; not at all while the page is hidden.
      requestAnimationFrame(() => this.send({ type: "next" }));
      return;
    }
    const message = JSON.parse(data);
    if (message.graph) {
      this.graph = message.graph;
      this.emit("graph");
    }
    if (message.state) {
      this.state = message.state as State;
      this.emit("state");
    }
    if (message.samples) {
      // A connection that is made again begins with the whole minute.
      const [first, last] = [message.samples[0].at, message.samples[message.samples.length - 1].at];
      const before = this.history.filter(({ at }) => at < first && at >= last - 1000 * MINUTE);
      this.history = [...before, ...message.samples];
      this.emit("samples");
    }
    if (message.lines) {
      this.lines = [...this.lines, ...message.lines].slice(-MAX_LINES);
      this.arrived += message.lines.length;
      this.skipped += message.skipped;
      this.emit("lines");
    }
    for (const found of message.found ?? []) {
      this.searches.get(found.ticket)?.resolve(found);
      this.searches.delete(found.ticket);
    }
    if (message.outcome) this.finish(message.outcome);
    if ((message.ended || message.lost) && !this.outcome) {
      this.connection = message.ended ? "ended" : "lost";
      this.emit("connection");
    }
    if (message.lost) this.socket?.close();
  }

  /** Take note of how the dataflow ended: nothing runs, and the losses are final. */
  finish(outcome: Listed): void {
    this.outcome = outcome;
    this.connection = "ended";
    if (this.state) this.state = endedState(this.state, outcome);
    this.emit("connection");
    this.emit("state");
  }

  private takePreview(data: ArrayBuffer): void {
    const size = new DataView(data).getUint32(0, true);
    const head: Head = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, size)));
    if (head.kind === "series") {
      const before = this.steps.get(head.topic) ?? [];
      // While nobody looked, nothing came: the curve is not drawn across that time.
      const gap = this.interrupted.delete(head.topic) && before.length > 0 && head.steps.length > 0;
      const broken: typeof before = gap ? [[head.steps[0]![0], head.steps[0]![1].map(() => null)]] : [];
      const steps = [...before, ...broken, ...head.steps].slice(-MAX_STEPS);
      this.steps.set(head.topic, steps);
    }
    const known = this.previews.get(head.topic)?.head.kind;
    const preview = { head, body: data.slice(4 + size) };
    this.previews.set(head.topic, preview);
    if (head.kind === "image" || head.kind === "boxes") this.remember(preview);
    this.emit(`preview ${head.topic}`);
    if (head.kind !== known) this.emit("kinds");
  }

  private remember(preview: Preview): void {
    const kept = [...(this.recent.get(preview.head.topic) ?? []), preview].slice(-KEPT_FRAMES);
    let bytes = kept.reduce((sum, { body }) => sum + body.byteLength, 0);
    while (bytes > KEPT_BYTES && kept.length > 1) bytes -= kept.shift()!.body.byteLength;
    this.recent.set(preview.head.topic, kept);
  }

  private tell(): void {
    const topics = document.hidden || this.paused ? [] : [...this.topics.keys()].sort();
    const message = { type: "look", topics, latency: this.latency && !document.hidden };
    const text = JSON.stringify(message);
    if (text === this.sent || !this.send(message)) return;
    this.sent = text;
    for (const topic of this.looked) if (!topics.includes(topic)) this.interrupted.add(topic);
    this.looked = topics;
  }

  private send(message: unknown): boolean {
    if (this.socket?.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify(message));
    return true;
  }

  private emit(channel: Channel): void {
    for (const listener of this.listeners.get(channel) ?? []) listener();
  }
}
