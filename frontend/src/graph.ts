// The graph of a dataflow, as `dora.dataflow.graph` writes it.

export interface Box {
  id: string;
  label: string;
  kind: "node" | "dynamic" | "shell" | "operator" | "timer" | "logs";
  group: string | null;
  program: string;
  description: string;
  inputs: string[];
  outputs: string[];
}

export interface Group {
  id: string;
  label: string;
  kind: "runtime" | "module";
  group: string | null;
  description: string;
}

export interface Edge {
  source: string;
  output: string;
  target: string;
  input: string;
  kind: "link" | "timer" | "text" | "local";
  queue_size: number;
  queue_policy: "drop_oldest" | "latest" | "backpressure";
  input_timeout: number | null;
  deadline: string; // as in the dataflow file, like the next three; "" if there is none
  max_age: string;
  rate: string;
  keep: string[];
  type: string;
  latched: number; // messages that a late receiver gets first
  sync: string; // "" if the input is in no group
  safe_state: boolean;
  asks_for_drops: boolean; // the input does without older messages
}

export interface Graph {
  boxes: Box[];
  groups: Group[];
  edges: Edge[];
}

const DEFAULT_QUEUE_SIZE = 10;

/** Tell whether dora itself provides this box: it has no name of its own in the dataflow file. */
export function isGiven(box: Box): boolean {
  return box.kind === "timer" || box.kind === "logs";
}

/** Return what is not the default about an edge, for a label: "" if nothing is. */
export function remarks(edge: Edge): string {
  if (edge.kind === "timer") return "";
  const words = [];
  if (edge.queue_policy === "backpressure") words.push("backpressure");
  if (edge.input_timeout !== null) words.push(`timeout ${edge.input_timeout} s`);
  if (edge.queue_policy === "latest") words.push("latest");
  if (edge.deadline) words.push(`deadline ${edge.deadline}`);
  if (edge.queue_size !== DEFAULT_QUEUE_SIZE) words.push(`queue ${edge.queue_size.toLocaleString("en")}`);
  return words.join(" · ");
}

/** Return where an edge comes from and where it goes, in the words of the dataflow file. */
export function ends(edge: Edge): [string, string] {
  return [edge.output ? `${edge.source}/${edge.output}` : edge.source, `${edge.target}/${edge.input}`];
}

const QUEUES = {
  drop_oldest: "Queue of #; when it is full, the oldest message is dropped.",
  latest: "One place, for the newest message.",
  backpressure: "Queue of #; when it is full, the sender waits (backpressure).",
};

/** Return sentences about how messages travel along an edge. */
export function contract(edge: Edge): string[] {
  if (edge.kind === "timer") return ["Ticks are made in the node itself; missed ones are not made up for."];
  const size = edge.queue_size.toLocaleString("en");
  const lines = [QUEUES[edge.queue_policy].replace("#", size)];
  if (edge.type) lines.unshift(edge.type);
  if (edge.kind === "local") lines.push("Inside one process: messages are passed by reference.");
  if (edge.kind === "text") lines.push("Lines of text, brought by the daemon.");
  if (edge.input_timeout !== null) lines.push(`Closes after ${edge.input_timeout} s of silence.`);
  if (edge.deadline) lines.push(`Deadline: a message at least every ${edge.deadline}.`);
  if (edge.max_age) lines.push(`Messages older than ${edge.max_age} expire.`);
  if (edge.rate) lines.push(`At most ${edge.rate}.`);
  if (edge.keep.length) lines.push(`Never dropped: messages with ${edge.keep.join(", ")}.`);
  if (edge.latched) lines.push(`Latched: a late receiver gets the newest ${edge.latched} first.`);
  if (edge.sync) lines.push(`In a sync group: ${edge.sync}.`);
  if (edge.safe_state) lines.push("The sender has a safe state.");
  return lines;
}
