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
  rules: { name: string; label: string; sentence: string }[]; // of the output, and of the input beside its queue
  type: string;
  sync: string; // "" if the input is in no group
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
  if (edge.queue_policy === "latest") words.push("latest");
  words.push(...edge.rules.map((rule) => rule.label).filter(Boolean));
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
  lines.push(...edge.rules.map((rule) => rule.sentence));
  if (edge.sync) lines.push(`In a sync group: ${edge.sync}.`);
  return lines;
}
