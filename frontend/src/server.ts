// Requests to the server, and the stream of what happens in one dataflow.

import type { Graph } from "./graph";
import { Feed, type Found, type Head, MINUTE, type Values } from "./feed";
import { endedState, type Listed, type Source, type State } from "./model";

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
  looks_back: boolean; // the run keeps its last seconds
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

/** Ask about a recording; throws like `ask`. The answer is JSON, or JSON with bytes behind it. */
export async function fetched(path: string, question: object): Promise<ArrayBuffer> {
  const response = await fetch(path, { method: "POST", headers: { "X-Dora-Page": kept(), "Content-Type": "application/json" }, body: JSON.stringify(question) });
  if (!response.ok) {
    const told = await response.json().catch(() => ({ error: response.statusText }));
    throw new Refused(response.status, told.error);
  }
  return response.arrayBuffer();
}

/** Send a request to a running dataflow, as commands do; returns its answer. */
export const request = <T>(uuid: string, body: { type: string; node: string; key?: string; value?: unknown }) =>
  ask<T>("POST", `/api/dataflows/${encodeURIComponent(uuid)}/requests`, body);

export const dataflows = () => ask<Listed[]>("GET", "/api/dataflows");
export const about = (uuid: string) => ask<About>("GET", `/dashboard/${encodeURIComponent(uuid)}`);

const RETRY = 1000; // milliseconds

/** Follows one dataflow and calls subscribers when something changes. */
export class Live extends Feed {
  readonly isPast = false;
  private latency = false;
  private socket: WebSocket | null = null;
  private closed = false;
  private searches = new Map<number, { query: object; resolve: (found: Found) => void }>();
  private lastTicket = 0;
  private sent = "";
  private looked: string[] = []; // topics that the server sends previews of
  private interrupted = new Set<string>(); // topics whose curves have a gap now
  private onVisible = () => this.tell();

  /** `alone`: the server shows nothing else, and ends with the dataflow. */
  constructor(
    private uuid: string,
    private alone: boolean,
  ) {
    super();
    document.addEventListener("visibilitychange", this.onVisible);
    this.open();
  }

  close(): void {
    this.closed = true;
    document.removeEventListener("visibilitychange", this.onVisible);
    this.socket?.close();
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
      this.connection = this.outcome ? "ended" : "open";
      this.tell();
      // Repeat the queries that the former connection has not answered.
      for (const { query } of this.searches.values()) this.send(query);
      this.emit("connection");
    };
    socket.onmessage = ({ data }) => (typeof data === "string" ? this.take(data) : this.takePreview(data));
    socket.onclose = () => {
      if (this.closed) return;
      if (this.outcome && this.alone) {
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
      this.addLines(message.lines, message.skipped);
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
      const broken: Values[] = gap ? [[head.steps[0]![0], head.steps[0]![1].map(() => null)]] : [];
      this.addSteps(head.topic, [...broken, ...head.steps]);
    }
    this.addPreview({ head, body: data.slice(4 + size) });
  }

  protected tell(): void {
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
}
