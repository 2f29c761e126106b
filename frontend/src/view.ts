// Draws a layout as SVG, and lets people move, zoom and select.

import { select, type Selection } from "d3-selection";
import { zoom, type ZoomBehavior, zoomIdentity, zoomTransform } from "d3-zoom";
import { contract, type Edge, ends, type Graph, isGiven } from "./graph";
import {
  COMPACT,
  type Direction,
  type Engine,
  fitted,
  headHeight,
  type Font,
  type Layout,
  PADDING,
  place,
  type PlacedBox,
  type PlacedEdge,
  type PlacedGroup,
  type PlacedPort,
  type Point,
} from "./layout";

const SVG = "http://www.w3.org/2000/svg";
const FAMILY = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif';
const MONO = 'ui-monospace, SFMono-Regular, Menlo, Consolas, "Noto Sans Mono", monospace';
const FONTS: Record<Font, string> = {
  title: `600 14px ${FAMILY}`,
  program: `11.5px ${MONO}`,
  port: `12px ${FAMILY}`,
  remark: `11px ${FAMILY}`,
};
// Scales: a graph that would be shown smaller than the first opens at the second, to be moved around;
// a small graph is not blown up beyond the third.
const SMALLEST_READABLE = 0.7;
const READABLE = 0.8;
const LARGEST = 1.15;
const MANY = 16; // nodes and operators that are not laid out in full to learn that they have no room

/** How something is at the moment: all right, to be watched, in trouble, or at rest. */
export type Tone = "fine" | "kept" | "warn" | "bad" | "rest";

/** What a page says about edges that it keeps up to date: room for a label, and more lines in the tip. */
export interface LiveWords {
  room(edge: Edge): string;
  more(edge: Edge): string[];
}

export type Selected = { kind: "box"; id: string } | { kind: "edge"; edge: Edge } | null;

/** Show a graph in an element; `onSelect` hears what the user chooses. */
export class GraphView {
  private svg: SVGSVGElement;
  private canvas: SVGGElement;
  private tip: HTMLDivElement;
  private zoom: ZoomBehavior<SVGSVGElement, unknown>;
  private surface: Selection<SVGSVGElement, unknown, null, undefined>;
  private layout: Layout | null = null;
  private boxes = new Map<string, SVGGElement>(); // by key
  private edges = new Map<PlacedEdge, SVGGElement[]>(); // the line, and the label if there is one
  private groups = new Map<string, SVGGElement>(); // by id
  private selected: Selected = null;
  private moved = false; // by the user
  /** Pixels at the right and at the bottom that something else covers. */
  covered = { right: 0, bottom: 0 };
  /** Pixels that its element may become high, if that is more than now; for the choice of `wantsCompact`. */
  highest = 0;
  /** Show boxes as their titles only, and edges without labels; null: if all of them are readable only so. */
  wantsCompact: boolean | null = false;

  constructor(
    private element: HTMLElement,
    private graph: Graph,
    private engine: Engine,
    private onSelect: (selected: Selected) => void,
    private live: LiveWords | null = null,
  ) {
    this.svg = shape("svg", { class: "graph", role: "group", "aria-label": "dataflow graph" });
    this.canvas = shape("g", {});
    this.svg.append(arrows(), this.canvas);
    this.tip = document.createElement("div");
    this.tip.className = "tip";
    this.tip.hidden = true;
    element.append(this.svg, this.tip);
    this.surface = select(this.svg);
    this.zoom = zoom<SVGSVGElement, unknown>()
      .scaleExtent([0.08, 4])
      .extent(() => [[0, 0], [element.clientWidth, element.clientHeight]] as [[number, number], [number, number]])
      .on("zoom", ({ transform, sourceEvent }) => {
        if (sourceEvent) this.moved = true;
        this.canvas.setAttribute("transform", transform.toString());
        this.tip.hidden = true;
      });
    this.surface.call(this.zoom).on("dblclick.zoom", null);
    this.svg.addEventListener("click", () => this.select(null));
  }

  /** The direction in which a graph fits the window best: down on a phone held upright. */
  get naturalDirection(): Direction {
    return this.element.clientWidth < this.element.clientHeight * 0.8 ? "DOWN" : "RIGHT";
  }

  get direction(): Direction {
    return this.layout?.direction ?? this.naturalDirection;
  }

  /** Whether boxes are shown as their titles only. */
  get compact(): boolean {
    return this.layout?.compact ?? false;
  }

  /** Lay the graph out and draw it; throws what the engine throws. */
  async draw(direction: Direction): Promise<void> {
    const layout = await this.place(direction);
    this.layout = layout;
    this.boxes.clear();
    this.edges.clear();
    this.groups.clear();
    const groups = layout.groups.map((group) => this.drawGroup(group));
    const boxes = layout.boxes.map((box) => this.drawBox(box));
    for (const edge of layout.edges) this.edges.set(edge, [this.drawEdge(edge), ...this.drawLabel(edge)]);
    const [lines, labels] = [0, 1].map((index) =>
      [...this.edges.values()].flatMap((elements) => elements.slice(index, index + 1)),
    );
    this.canvas.replaceChildren(...groups, ...lines!, ...boxes, ...labels!);
    this.highlight(this.selected);
    this.moved = false;
    this.fit();
  }

  private async place(direction: Direction): Promise<Layout> {
    const placed = (compact: boolean) => place(this.graph, this.engine, measure, direction, this.live?.room, compact);
    if (this.wantsCompact !== null) return placed(this.wantsCompact);
    if (this.graph.boxes.filter((box) => !isGiven(box)).length > MANY) return placed(true);
    const full = await placed(false);
    const readable = (layout: Layout) => this.scaleOf(layout, Math.max(this.room[1], this.highest)) >= SMALLEST_READABLE;
    if (readable(full)) return full;
    const compact = await placed(true);
    return readable(compact) ? compact : full;
  }

  /** The height that shows the graph in the size in which its width fits, in pixels. */
  get neededHeight(): number {
    if (!this.layout) return 0;
    const scale = Math.min(LARGEST, this.room[0] / this.layout.width);
    return this.layout.height * Math.max(scale, SMALLEST_READABLE) + this.covered.bottom;
  }

  /** The width and height that nothing else covers. */
  private get room(): [number, number] {
    return [this.element.clientWidth - this.covered.right, this.element.clientHeight - this.covered.bottom];
  }

  /** Return the scale at which all of a layout is seen. */
  private scaleOf({ width, height }: Layout, h = this.room[1]): number {
    const [w] = this.room;
    return Math.min(w / width, h / height);
  }

  /** Fit again into an element whose size has changed, unless the user has moved the graph. */
  refit(): void {
    if (!this.moved && this.element.clientWidth) this.fit();
  }

  /** Show the whole graph, or its beginning if all of it would be too small to read. */
  fit(whole = false): void {
    if (!this.layout) return;
    const { width, height } = this.layout;
    const [w, h] = this.room;
    const all = this.scaleOf(this.layout);
    const scale = Math.min(LARGEST, whole || all >= SMALLEST_READABLE ? all : READABLE);
    // Centred where it fits, otherwise around the boxes where the dataflow begins.
    const begin = this.beginning(this.layout);
    const shift = (size: number, room: number, middle: number) =>
      size * scale <= room ? (room - size * scale) / 2 : Math.max(room - size * scale, Math.min(0, room / 2 - middle * scale));
    const [x, y] = [shift(width, w, begin.x), shift(height, h, begin.y)];
    this.surface.call(this.zoom.transform, zoomIdentity.translate(x, y).scale(scale));
  }

  /** Return the middle of the boxes of the first layer. */
  private beginning({ boxes, direction }: Layout): Point {
    const along = (box: PlacedBox) => (direction === "RIGHT" ? box.x : box.y);
    const first = Math.min(...boxes.map(along));
    const layer = boxes.filter((box) => along(box) <= first + 1);
    const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / (values.length || 1);
    return { x: mean(layer.map((box) => box.x + box.width / 2)), y: mean(layer.map((box) => box.y + box.height / 2)) };
  }

  /** Enlarge around the middle. */
  scaleBy(factor: number): void {
    this.surface.call(this.zoom.scaleBy, factor);
  }

  /** Select a box, an edge or nothing; what is connected to it stands out. */
  select(selected: Selected): void {
    this.selected = selected;
    this.highlight(selected);
    this.onSelect(selected);
  }

  /** Highlight something without a call of `onSelect`. */
  highlightOnly(selected: Selected): void {
    this.selected = selected;
    this.highlight(selected);
  }

  /** Move a box to where `cover`, which lies over the graph at a side or at the bottom, hides nothing. */
  reveal(id: string, cover: DOMRect): void {
    const box = this.boxes.get(id)?.getBoundingClientRect();
    if (!box) return;
    const area = this.element.getBoundingClientRect();
    const sheet = cover.width > area.width / 2;
    const [right, bottom] = sheet ? [area.right, cover.top] : [cover.left, area.bottom];
    if (box.left >= area.left && box.top >= area.top && box.right <= right && box.bottom <= bottom) return;
    const scale = zoomTransform(this.svg).k;
    const x = (area.left + right - box.left - box.right) / 2;
    const y = (area.top + bottom - box.top - box.bottom) / 2;
    this.surface.call(this.zoom.translateBy, x / scale, y / scale);
  }

  /** Say how a box is, in the line below its title. */
  noteBox(id: string, words: string, tone: Tone): void {
    const element = this.boxes.get(id);
    if (element) note(element, "text.program", words, tone);
  }

  /** Say how a group is, at the right of its title. */
  noteGroup(id: string, words: string, tone: Tone): void {
    const element = this.groups.get(id);
    if (element) note(element, "text.group-kind", words, tone);
  }

  /** Say how edges are, on their labels. */
  noteEdges(words: (edge: Edge) => [string, Tone]): void {
    for (const [{ edge }, [line, label]] of this.edges) {
      const [text, tone] = words(edge);
      line!.dataset.tone = tone;
      if (label) {
        label.classList.toggle("empty", text === "");
        note(label, "text", text, tone);
      }
    }
  }

  private highlight(chosen: Selected): void {
    const near = new Set<string>();
    for (const [placed, elements] of this.edges) {
      const hit = chosen?.kind === "box" ? touches(placed, chosen.id) : chosen?.edge === placed.edge;
      for (const element of elements) element.classList.toggle("near", hit);
      if (hit) near.add(placed.source).add(placed.target);
    }
    for (const [key, element] of this.boxes) {
      element.classList.toggle("near", near.has(key));
      element.classList.toggle("chosen", chosen?.kind === "box" && chosen.id === key);
    }
    this.svg.classList.toggle("choosing", this.selected !== null);
  }

  private drawGroup({ group, ...area }: PlacedGroup): SVGGElement {
    const element = shape("g", { class: `group ${group.kind}` });
    const title = text(area.x + 18, area.y + 27, group.label, "group-title");
    const kind = text(area.x + area.width - 18, area.y + 26, group.kind, "group-kind");
    element.append(shape("rect", { ...rectangle(area), rx: 14 }), title, kind);
    if (group.description) element.append(tooltip(group.description));
    this.groups.set(group.id, element);
    return element;
  }

  private drawBox(placed: PlacedBox): SVGGElement {
    const { box, key, width, height } = placed;
    const element = shape("g", {
      class: `box ${box.kind}`,
      transform: `translate(${placed.x} ${placed.y})`,
      "data-id": box.id,
    });
    if (isGiven(box)) {
      element.append(
        shape("rect", { width, height, rx: height / 2, class: "card" }),
        sign(box.kind, 9, height / 2 - 6),
        text(27, height / 2 + 4, box.label, "port"),
      );
    } else {
      element.append(shape("rect", { width, height, rx: 10, class: "card" }), ...this.head(placed));
      element.append(...(this.compact ? [] : placed.ports.flatMap((port) => this.drawPort(port))));
      element.setAttribute("tabindex", "0");
      element.setAttribute("role", "button");
      element.setAttribute("aria-label", `${box.kind} ${box.label}`);
      const choose = (event: Event) => {
        event.stopPropagation();
        this.select({ kind: "box", id: box.id });
      };
      element.addEventListener("click", choose);
      element.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") choose(event);
      });
      element.addEventListener("pointerenter", (event) => {
        if (event.pointerType === "mouse" && !this.selected) this.highlight({ kind: "box", id: box.id });
      });
      element.addEventListener("pointerleave", () => this.highlight(this.selected));
    }
    this.boxes.set(key, element);
    return element;
  }

  private head({ box, width }: PlacedBox): SVGElement[] {
    if (this.compact)
      return [sign(box.kind, 8, COMPACT / 2 - 5), text(26, COMPACT / 2 + 5, fitted(box.label, "title", measure), "title")];
    // In a layout downward, the inputs have the first line.
    const down = this.layout!.direction === "DOWN" && box.inputs.length > 0 ? 16 : 0;
    const top = PADDING + down;
    const parts: SVGElement[] = [
      sign(box.kind, PADDING, top + 1),
      text(PADDING + 20, top + 12, fitted(box.label, "title", measure), "title"),
    ];
    if (box.program)
      parts.push(text(PADDING, top + 31, fitted(box.program, "program", measure, "end"), "program"));
    if (!down && this.layout!.direction === "RIGHT" && box.inputs.length + box.outputs.length > 0) {
      const y = headHeight(box) - 3;
      parts.push(shape("line", { x1: 0, x2: width, y1: y, y2: y, class: "rule" }));
    }
    return parts;
  }

  private drawPort(port: PlacedPort): SVGElement[] {
    const dot = shape("circle", { cx: port.x, cy: port.y, r: 4, class: `dot ${port.side}` });
    const name = text(port.x, port.y, port.name, `port ${port.side}`);
    if (this.layout!.direction === "RIGHT") {
      name.setAttribute("x", String(port.x + (port.side === "input" ? 12 : -12)));
      name.setAttribute("y", String(port.y + 4));
      name.setAttribute("text-anchor", port.side === "input" ? "start" : "end");
    } else {
      name.setAttribute("y", String(port.y + (port.side === "input" ? 18 : -10)));
      name.setAttribute("text-anchor", "middle");
    }
    return [dot, name];
  }

  private drawEdge({ edge, points }: PlacedEdge): SVGGElement {
    const element = shape("g", { class: `edge ${edge.kind} ${edge.queue_policy}` });
    const line = rounded(points);
    element.append(
      shape("path", { d: line, class: "line", "marker-end": "url(#arrow)" }),
      shape("path", { d: line, class: "reach" }),
    );
    this.listen(element, edge);
    return element;
  }

  private drawLabel({ edge, label }: PlacedEdge): SVGGElement[] {
    if (!label) return [];
    const element = shape("g", { class: `remark ${edge.queue_policy}` });
    element.append(
      shape("rect", { ...rectangle(label), rx: 9 }),
      text(label.x + label.width / 2, label.y + 13, label.text, ""),
    );
    this.listen(element, edge);
    return [element];
  }

  private listen(element: SVGGElement, edge: Edge): void {
    element.addEventListener("click", (event) => {
      event.stopPropagation();
      this.select({ kind: "edge", edge });
    });
    element.addEventListener("pointerenter", (event) => {
      if (event.pointerType !== "mouse") return;
      if (!this.selected) this.highlight({ kind: "edge", edge });
      this.showTip(event, edge);
    });
    element.addEventListener("pointermove", (event) => {
      if (event.pointerType === "mouse") this.showTip(event, edge);
    });
    element.addEventListener("pointerleave", () => {
      this.tip.hidden = true;
      this.highlight(this.selected);
    });
  }

  private showTip(event: PointerEvent, edge: Edge): void {
    const title = document.createElement("strong");
    title.textContent = ends(edge).join(" → ");
    const lines = [...contract(edge), ...(this.live?.more(edge) ?? [])].map((line) => {
      const element = document.createElement("div");
      element.textContent = line;
      return element;
    });
    this.tip.replaceChildren(title, ...lines);
    this.tip.hidden = false;
    const area = this.element.getBoundingClientRect();
    const [x, y] = [event.clientX - area.left + 14, event.clientY - area.top + 16];
    this.tip.style.left = `${Math.max(8, Math.min(x, area.width - this.tip.offsetWidth - 8))}px`;
    this.tip.style.top = `${Math.max(8, Math.min(y, area.height - this.tip.offsetHeight - 8))}px`;
  }
}

function note(element: SVGGElement, place: string, words: string, tone: Tone): void {
  element.dataset.tone = tone;
  const line = element.querySelector(place);
  if (line && line.textContent !== words) line.textContent = words;
}

function touches(placed: PlacedEdge, id: string): boolean {
  return placed.edge.source === id || placed.edge.target === id;
}

function shape<K extends keyof SVGElementTagNameMap>(
  name: K,
  attributes: Record<string, string | number>,
): SVGElementTagNameMap[K] {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  return element;
}

function text(x: number, y: number, words: string, style: string): SVGTextElement {
  const element = shape("text", { x, y, class: style });
  element.textContent = words;
  return element;
}

function tooltip(words: string): SVGTitleElement {
  const element = shape("title", {});
  element.textContent = words;
  return element;
}

function rectangle({ x, y, width, height }: { x: number; y: number; width: number; height: number }) {
  return { x, y, width, height };
}

/** Return the path of an edge with its corners rounded. */
function rounded(points: Point[]): string {
  const [first, ...rest] = points;
  if (!first) return "";
  let path = `M${first.x} ${first.y}`;
  rest.forEach((point, index) => {
    const before = points[index]!;
    const after = rest[index + 1];
    if (!after) {
      path += `L${point.x} ${point.y}`;
      return;
    }
    const towards = (to: Point) => {
      const length = Math.hypot(to.x - point.x, to.y - point.y) || 1;
      const step = Math.min(8, length / 2) / length;
      return `${point.x + (to.x - point.x) * step} ${point.y + (to.y - point.y) * step}`;
    };
    path += `L${towards(before)}Q${point.x} ${point.y} ${towards(after)}`;
  });
  return path;
}

function arrows(): SVGDefsElement {
  const defs = shape("defs", {});
  const marker = shape("marker", {
    id: "arrow",
    viewBox: "0 0 8 8",
    refX: 12, // in front of the dot of the port
    refY: 4,
    markerWidth: 8,
    markerHeight: 8,
    markerUnits: "userSpaceOnUse",
    orient: "auto",
  });
  marker.append(shape("path", { d: "M0 0.5 7.5 4 0 7.5z", fill: "context-stroke" }));
  defs.append(marker);
  return defs;
}

// Twelve by twelve pixels, in strokes.
const SIGNS: Record<string, string> = {
  node: "M1 2.5h10v7H1zM3 5l1.5 1L3 7M6 7.5h2.5",
  dynamic: "M4 1v3M8 1v3M2.5 4h7v2a3.5 3.5 0 0 1-7 0zM6 9.5V12",
  shell: "M1.5 3l3 3-3 3M6.5 9.5h4",
  operator: "M6 1l4.5 2.5v5L6 11 1.5 8.500v-5zM1.500 3.500 6 6l4.500-2.500M6 6v5",
  timer: "M6 1.200a4.800 4.800 0 1 0 .01 0zM6 3.500V6l1.800 1.500",
  logs: "M1.500 2.500h9M1.500 6h9M1.500 9.500h5.500",
};

function sign(kind: string, x: number, y: number): SVGPathElement {
  return shape("path", { d: SIGNS[kind]!, transform: `translate(${x} ${y})`, class: "sign" });
}

const ruler = document.createElement("canvas").getContext("2d")!;

function measure(words: string, font: Font): number {
  ruler.font = FONTS[font];
  return Math.ceil(ruler.measureText(words).width);
}
