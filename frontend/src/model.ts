// What the server says about a dataflow, and the words and colours for it.

import { COUNTERS, FLAGS, NODE_COUNTERS } from "./counters";
import { type Box, type Edge, ends, type Graph, isGiven } from "./graph";
import { TONES } from "./statuses";
import type { Tone } from "./view";

export interface NodeState {
  id: string;
  status: keyof typeof TONES;
  failure: { number: number; reason: string } | null; // the first cause is number 1
  machine: string; // "" while all nodes are on one
  pid: number | null;
  counts: Partial<Record<keyof typeof NODE_COUNTERS, number>>; // since the start, without those that are 0
  cpu: number | null; // percent of one processor
  memory: number | null; // bytes
  sent_hz: number;
  bytes_per_second: number;
  waiting: number;
  dropped: number;
  quiet: number | null; // seconds
  outputs: { id: string; type: string; text: boolean }[];
}

export interface LinkState {
  source: string;
  target: string;
  hz: number;
  bytes_per_second: number | null;
  waiting: number | null;
  queue_size: number;
  policy: "drop_oldest" | "latest" | "backpressure";
  dropped: number;
  dropping_hz: number;
  counts: Partial<Record<keyof typeof COUNTERS, number>>; // since the start, without those that are 0
  flags: (keyof typeof FLAGS)[]; // that are set, the one that counts first
  latency: [number, number] | null; // milliseconds: median, 99th percentile
}

/** How long data takes from the output where it began to an input; milliseconds. */
export interface PathState {
  source: string;
  target: string;
  messages: number;
  median: number;
  p99: number;
  worst: number;
  clock_error: number; // of the clocks of two machines
  budget: number | null;
  missed: number; // messages over the budget
  slowest_hop: string; // where most of the time went when it was missed last, "" if it never was
}

/** The network from one machine to another. */
export interface NetworkState {
  source: string;
  target: string;
  state: "connecting" | "connected" | "cut";
  bytes_per_second: number;
  available_bytes_per_second: number | null;
  round_trip_ms: number | null;
  loss: number | null; // share of the packets that were sent again
  waiting: Record<string, number>; // priority → messages
  ages_ms: Record<string, [number, number]>; // priority → median and 99th percentile of the last messages
  outputs: { output: string; bytes_per_second: number; share: number }[]; // those that take most come first
  warnings: string[];
}

export interface State {
  nodes: NodeState[];
  links: LinkState[];
  paths: PathState[];
  networks: NetworkState[]; // empty while all nodes are on one machine
  trouble?: string;
}

export interface Line {
  time: number; // milliseconds since the Unix epoch
  level: "error" | "warn" | "info" | "debug" | "trace" | "stdout";
  node: string | null;
  stream: string;
  message: string;
  fields?: Record<string, string>;
}

/** A dataflow as the list of the coordinator has it. */
export interface Listed {
  uuid: string;
  name: string;
  status: "Starting" | "Running" | "Finished" | "Failed";
  nodes: string[];
  file: string | null;
  log_directory: string;
  machines: string[];
  created: number;
  ended: number | null;
  cpu: number;
  memory: number;
  reason: string;
  result: Outcome | null; // only if one dataflow is asked for
}

export interface Outcome {
  failures: Failure[];
  links: LinkReport[];
  stopped: boolean;
}

/** The counts of a link at the end. */
export interface LinkReport {
  link: string; // "a/out -> b/in"
  sent: number;
  received: number;
  dropped: number;
  unread: number;
}

export interface Failure {
  node_id: string;
  message: string;
  last_lines: string[];
}

export interface Source {
  text: string;
  lines: Record<string, [number, number]>;
}

export const LEVELS = ["error", "warn", "info", "debug", "trace", "stdout"] as const;

/** Return the name that the server has for an output or input of a box. */
export function fullName(box: Box, port: string): string {
  return `${box.id}/${port}`;
}

/** Return the node whose process a box is, or is in. */
export function nodeOf(box: Box): string {
  return box.id.split("/")[0]!;
}

/** Return the name that the server has for the link of an edge; timers and logs have none. */
export function linkName(edge: Edge, boxes: Map<string, Box>): string | null {
  const source = boxes.get(edge.source);
  const target = boxes.get(edge.target);
  if (!source || !target || isGiven(source)) return null;
  return `${fullName(source, edge.output)} ${fullName(target, edge.input)}`;
}

/** Find what is measured of an edge. */
export class Links {
  private links = new Map<string, LinkState>();

  constructor(
    state: State | null,
    private boxes: Map<string, Box>,
  ) {
    for (const link of state?.links ?? []) this.links.set(`${link.source} ${link.target}`, link);
  }

  of(edge: Edge): LinkState | undefined {
    return this.links.get(linkName(edge, this.boxes) ?? "");
  }
}

export function linksOf(state: State | null, graph: Graph): Links {
  return new Links(state, new Map(graph.boxes.map((box) => [box.id, box])));
}

/** Return how many messages of a link its receiver should have got, and did not: a stop leaves some unread. */
export function lostOn(report: LinkReport, asksForDrops: boolean, outcome: Outcome): number {
  return (asksForDrops ? 0 : report.dropped) + (outcome.stopped ? 0 : report.unread);
}

/** Return the name of a dataflow for a heading. Most files are called dataflow.yml, and then the folder says more. */
export function titleOf(listed: Listed): string {
  return listed.name === "dataflow" ? folderOf(listed).split("/").pop() || listed.name : listed.name;
}

/** Return the folder of the dataflow file; without a file, the one below which the logs are written. */
export function folderOf(listed: Listed): string {
  const levels = listed.file && !listed.file.includes("://") ? 1 : 2;
  return (levels === 1 ? listed.file! : listed.log_directory).split("/").slice(0, -levels).join("/");
}

/** Return the nodes that have failed, the first cause first. */
export function failedNodes(state: State | null): NodeState[] {
  const failed = state?.nodes.filter((node) => node.failure !== null) ?? [];
  return failed.sort((a, b) => a.failure!.number - b.failure!.number);
}

/** Return how many messages a node has lost although its inputs did not ask for it. */
export function lostBy(node: NodeState, graph: Graph, links: Links): number {
  const own = graph.edges.filter((edge) => edge.target.split("/")[0] === node.id && !edge.asks_for_drops);
  return own.reduce((sum, edge) => sum + (links.of(edge)?.dropped ?? 0), 0);
}

/** Return the last state of a dataflow that has ended. */
export function endedState(state: State, outcome: Listed): State {
  const failures = outcome.result?.failures ?? [];
  const failureOf = (node: NodeState) => {
    const index = failures.findIndex((failure) => failure.node_id === node.id);
    return node.failure ?? (index < 0 ? null : { number: index + 1, reason: failures[index]!.message });
  };
  const reports = new Map(outcome.result?.links.map((report) => [report.link, report]));
  return {
    nodes: state.nodes.map((node) => ({
      ...node,
      status: failureOf(node) ? "Failed" : "Stopped",
      failure: failureOf(node),
      ...({ pid: null, cpu: null, memory: null, sent_hz: 0, bytes_per_second: 0, waiting: 0 } satisfies Partial<NodeState>),
    })),
    links: state.links.map((link) => {
      const report = reports.get(`${link.source} -> ${link.target}`);
      return {
        ...link,
        ...({ hz: 0, bytes_per_second: null, waiting: null, dropping_hz: 0, latency: null, flags: [] } satisfies Partial<LinkState>),
        dropped: report?.dropped ?? link.dropped,
      };
    }),
    paths: state.paths,
    networks: [],
  };
}

export function toneOfNode(node: NodeState): Tone {
  return TONES[node.status] ?? "fine"; // a recording of another version may have other words
}

/** Return how a link is: red for what goes wrong now, amber for what did, green while a deadline is kept. Losses that the input asks for are not wrong. */
export function toneOfLink(link: LinkState, edge: Edge): Tone {
  if ((link.dropping_hz > 0 && !edge.asks_for_drops) || link.flags.some((name) => FLAGS[name].isRed)) return "bad";
  if (link.flags.length || counted(link).some(({ isAmber }) => isAmber)) return "warn";
  if (link.waiting !== null && link.queue_size !== undefined && link.queue_size > 1 && link.waiting >= 0.8 * link.queue_size) return "warn";
  if (link.hz > 0) return edge.rules.some(({ name }) => name === "deadline") ? "kept" : "fine";
  return "rest";
}

/** Return what the label of an edge says: how often, how late, what is lost; if it is brief, no latency beside a loss. */
export function labelOfLink(link: LinkState, brief = false): string {
  const [flag] = link.flags;
  const words = [flag ? FLAGS[flag].label : rate(link.hz)];
  if (link.latency && !(brief && link.dropping_hz > 0)) words.push(milliseconds(link.latency[0]));
  if (link.dropping_hz > 0) words.push(`−${rate(link.dropping_hz)}`);
  return words.join(" · ");
}

/** Return the counters of nodes that have a column in a table of these nodes. */
export function shownCounters(nodes: NodeState[]): { label: string; isAmber: boolean; of: (node: NodeState) => number }[] {
  return Object.entries(NODE_COUNTERS)
    .map(([name, counter]) => ({ ...counter, of: (node: NodeState) => node.counts[name as keyof typeof NODE_COUNTERS] ?? 0 }))
    .filter((counter) => counter.isAlwaysShown || nodes.some(counter.of));
}

/** Return sentences about the link of an edge at the moment. */
export function sentences(link: LinkState, edge: Edge): string[] {
  const lines = [`${rate(link.hz)}${link.bytes_per_second ? `, ${size(link.bytes_per_second)}/s` : ""}`];
  for (const flag of link.flags) lines.push(`${FLAGS[flag].title}.`);
  if (link.waiting !== null && link.queue_size !== undefined) lines.push(`${whole(link.waiting)} of ${whole(link.queue_size)} places in the queue are taken.`);
  if (link.latency) lines.push(`Taken after ${milliseconds(link.latency[0])} (99 %: ${milliseconds(link.latency[1])}).`);
  if (link.dropped)
    lines.push(`${whole(link.dropped)} dropped since the start${link.dropping_hz > 0 ? `, ${rate(link.dropping_hz)} now` : ""}${edge.asks_for_drops ? ", as the input asks" : ""}.`);
  for (const { sentence, count } of counted(link)) lines.push(`${filled(sentence, count, link)}.`);
  return lines;
}

/** Return the counters of a link that are not 0, in the order of their table. */
function counted(link: LinkState): { sentence: string; isAmber: boolean; count: number }[] {
  return Object.entries(COUNTERS).flatMap(([name, counter]) => {
    const count = link.counts[name as keyof typeof COUNTERS];
    return count ? [{ ...counter, count }] : [];
  });
}

/** Return the sentence of a counter. */
function filled(sentence: string, count: number, link: LinkState): string {
  const plural = count === 1 ? "" : "s";
  const values: Record<string, string> = {
    count: whole(count),
    messages: `${whole(count)} message${plural}`,
    times: `${whole(count)} time${plural}`,
    sender: link.source.split("/")[0]!,
    receiver: link.target.split("/")[0]!,
  };
  const text = sentence.replace(/{(\w+)}/g, (_, name: string) => values[name]!);
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** Return a sentence about a path. */
export function sentenceOfPath(path: PathState): string {
  const exact = path.clock_error ? `, ± ${milliseconds(path.clock_error)} between the clocks` : "";
  const budget = path.budget === null ? "" : ` Budget ${milliseconds(path.budget)}, missed ${times(path.missed)}${path.slowest_hop ? `, mostly in ${path.slowest_hop}` : ""}.`;
  return `Median ${milliseconds(path.median)}, 99 % ${milliseconds(path.p99)}, worst ${milliseconds(path.worst)}${exact}.${budget}`;
}

/** Return sentences about a network. */
export function sentencesOfNetwork(network: NetworkState): string[] {
  const { available_bytes_per_second: available, round_trip_ms: roundTrip, loss } = network;
  const parts = [`${size(network.bytes_per_second)}/s${available === null ? "" : ` of ${size(available)}/s`}`];
  if (roundTrip !== null) parts.push(`round trip ${milliseconds(roundTrip)}`);
  if (loss !== null) parts.push(`loss ${(loss * 100).toFixed(1)} %`);
  const lines = [`${parts.join(", ")}.`];
  for (const [priority, [median, p99]] of Object.entries(network.ages_ms))
    lines.push(`Messages of ${priority} priority are ${milliseconds(median)} old on arrival (99 %: ${milliseconds(p99)}).`);
  const waiting = Object.entries(network.waiting).map(([priority, count]) => `${whole(count)} ${priority}`);
  if (waiting.length) lines.push(`Messages that wait: ${waiting.join(", ")}.`);
  return lines;
}

function times(count: number): string {
  return count === 1 ? "once" : `${whole(count)} times`;
}

export function ownWords(edge: Edge): string {
  return ends(edge).join(" → ");
}

export function rate(hz: number): string {
  return `${short(hz)} Hz`;
}

/** Return a number in a few characters. */
export function short(value: number): string {
  const amount = Math.abs(value);
  if (amount >= 1e9) return `${(value / 1e9).toFixed(1)} G`;
  if (amount >= 1e6) return `${(value / 1e6).toFixed(1)} M`;
  if (amount >= 1e4) return `${(value / 1e3).toFixed(1)} k`;
  if (amount >= 100 || Number.isInteger(value)) return value.toFixed(0);
  return value.toFixed(amount >= 1 ? 1 : 2);
}

/** Return a number with five digits. */
export function rounded(value: number): number {
  return Number.isInteger(value) ? value : Number(value.toPrecision(5));
}

/** Return a value as JSON, its numbers rounded. */
export function asText(value: unknown): string {
  return JSON.stringify(value, (_, item) => (typeof item === "number" ? rounded(item) : item));
}

export function whole(value: number): string {
  return value.toLocaleString("en");
}

export function milliseconds(value: number): string {
  return value >= 100 ? `${value.toFixed(0)} ms` : value >= 1 ? `${value.toFixed(1)} ms` : `${value.toFixed(2)} ms`;
}

export function size(bytes: number): string {
  const units = ["B", "kB", "MB", "GB"];
  let index = 0;
  while (bytes >= 1000 && index < units.length - 1) {
    bytes /= 1000;
    index += 1;
  }
  return `${bytes >= 100 || index === 0 ? bytes.toFixed(0) : bytes.toFixed(1)} ${units[index]}`;
}

export function clock(time: number): string {
  const date = new Date(time);
  const two = (value: number) => String(value).padStart(2, "0");
  const millis = String(date.getMilliseconds()).padStart(3, "0");
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${millis}`;
}

export function duration(seconds: number): string {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}
