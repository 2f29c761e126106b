// The page of `dora graph`: a header, the graph, and a panel about what is selected.

import ELK from "elkjs/lib/elk-api";
import { contract, type Edge, ends, type Graph, isGiven, remarks } from "./graph";
import { GraphView, type Selected } from "./view";

// The engine works in a thread of its own: a large graph takes it seconds.
const engine = new ELK({
  workerFactory: () => {
    const script = new Blob([find("engine").textContent!], { type: "text/javascript" });
    return new Worker(URL.createObjectURL(script));
  },
});
const graph: Graph = JSON.parse(find("graph-data").textContent!);
const panel = find("panel");
const view = new GraphView(find("graph"), graph, engine, show);

function find(id: string): HTMLElement {
  return document.getElementById(id)!;
}

function element(name: string, words: string, style = ""): HTMLElement {
  const made = document.createElement(name);
  made.textContent = words;
  if (style) made.className = style;
  return made;
}

function show(selected: Selected): void {
  panel.hidden = selected === null;
  if (selected?.kind === "box") {
    showBox(selected.id);
    view.reveal(selected.id, panel.getBoundingClientRect());
  } else if (selected) showEdge(selected.edge);
}

function showBox(id: string): void {
  const box = graph.boxes.find((candidate) => candidate.id === id)!;
  const parts = [element("h2", box.label), element("p", box.label === id ? box.kind : `${box.kind} ${id}`, "kind")];
  if (box.description) parts.push(element("p", box.description));
  if (box.program) parts.push(element("code", box.program, "program"));
  const incoming = graph.edges.filter((edge) => edge.target === id);
  if (incoming.length) parts.push(element("h3", "Inputs"));
  for (const edge of incoming)
    parts.push(item(edge.input, ends(edge)[0], remarks(edge), () => choose(edge)));
  if (box.outputs.length) parts.push(element("h3", "Outputs"));
  for (const output of box.outputs) {
    const listeners = graph.edges.filter((edge) => edge.source === id && edge.output === output);
    if (!listeners.length) parts.push(item(output, "nobody listens", ""));
    for (const edge of listeners) parts.push(item(output, ends(edge)[1], "", () => choose(edge)));
  }
  fill(parts);
}

function showEdge(edge: Edge): void {
  const source = graph.boxes.find((box) => box.id === edge.source)!;
  const [from, to] = ends(edge);
  fill([
    element("h2", `${from} → ${to}`),
    ...contract(edge).map((line) => element("p", line)),
    isGiven(source) ? element("p", source.label) : item("from", edge.source, "", () => jump(edge.source)),
    item("to", edge.target, "", () => jump(edge.target)),
  ]);
}

function item(name: string, other: string, note: string, follow?: () => void): HTMLElement {
  const row = element(follow ? "button" : "div", "", "item");
  row.append(element("b", name), element("span", other));
  if (note) row.append(element("small", note));
  if (follow) row.addEventListener("click", follow);
  return row;
}

function choose(edge: Edge): void {
  view.select({ kind: "edge", edge });
}

function jump(id: string): void {
  view.select({ kind: "box", id });
}

function fill(parts: HTMLElement[]): void {
  const close = element("button", "×", "close");
  close.setAttribute("aria-label", "close");
  close.addEventListener("click", () => view.select(null));
  panel.replaceChildren(close, ...parts);
  panel.scrollTop = 0;
}

find("fit").addEventListener("click", () => view.fit(true));
find("larger").addEventListener("click", () => view.scaleBy(1.3));
find("smaller").addEventListener("click", () => view.scaleBy(1 / 1.3));
find("turn").addEventListener("click", () => void view.draw(view.direction === "RIGHT" ? "DOWN" : "RIGHT"));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") view.select(null);
});

view.draw(view.naturalDirection).then(
  () => {
    find("waiting").remove();
    document.body.classList.add("ready");
  },
  (error: Error) => {
    find("waiting").textContent = `The graph cannot be laid out: ${error.message}`;
  },
);
