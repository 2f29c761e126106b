// Where everything goes. ELK does the work: layers, few crossings, edges around boxes.

import type { ElkExtendedEdge, ElkNode, ElkPort, LayoutOptions } from "elkjs/lib/elk-api";
import { type Box, type Edge, type Graph, type Group, isGiven, remarks } from "./graph";

export type Direction = "RIGHT" | "DOWN";
export type Font = "title" | "program" | "port" | "remark";
/** Return the width of a text in pixels. */
export type Measure = (text: string, font: Font) => number;

export interface Point {
  x: number;
  y: number;
}

export interface Area extends Point {
  width: number;
  height: number;
}

export interface PlacedPort extends Point {
  name: string;
  side: "input" | "output";
}

export interface PlacedBox extends Area {
  box: Box;
  /** Unlike the id of the box, this is unique: a timer is drawn once for each of its listeners. */
  key: string;
  ports: PlacedPort[];
}

export interface PlacedGroup extends Area {
  group: Group;
}

export interface PlacedEdge {
  edge: Edge;
  /** The keys of the placed boxes at its ends. */
  source: string;
  target: string;
  points: Point[];
  label: (Area & { text: string }) | null;
}

export interface Layout extends Area {
  direction: Direction;
  compact: boolean; // boxes are their titles only
  boxes: PlacedBox[];
  groups: PlacedGroup[];
  edges: PlacedEdge[];
}

export interface Engine {
  layout(graph: ElkNode): Promise<ElkNode>;
}

export const ROW = 22; // height of a port's line
export const PADDING = 14;
const TITLE = 20;
const PROGRAM = 16;
export const COMPACT = 30; // height of a box that is its title only
const MAX_TEXT = 240;

const SPACING: LayoutOptions = {
  "elk.spacing.nodeNode": "28",
  "elk.spacing.edgeNode": "18",
  "elk.spacing.edgeEdge": "12",
  "elk.spacing.edgeLabel": "4",
  "elk.spacing.componentComponent": "48",
  "elk.layered.spacing.nodeNodeBetweenLayers": "56",
  "elk.layered.spacing.edgeNodeBetweenLayers": "20",
  "elk.layered.spacing.edgeEdgeBetweenLayers": "12",
};

const DENSE: LayoutOptions = {
  "elk.spacing.nodeNode": "12",
  "elk.spacing.edgeNode": "8",
  "elk.spacing.edgeEdge": "5",
  "elk.layered.spacing.nodeNodeBetweenLayers": "24",
  "elk.layered.spacing.edgeNodeBetweenLayers": "8",
  "elk.layered.spacing.edgeEdgeBetweenLayers": "5",
  "elk.padding": "[top=12,left=12,bottom=12,right=12]",
};

/** Where every edge has a label, which is a layer of its own. */
const LABELLED: LayoutOptions = { "elk.layered.spacing.nodeNodeBetweenLayers": "28", "elk.padding": "[top=16,left=16,bottom=16,right=16]" };

const ROOT: LayoutOptions = {
  ...SPACING,
  "elk.algorithm": "layered",
  "elk.hierarchyHandling": "INCLUDE_CHILDREN",
  "elk.json.shapeCoords": "ROOT",
  "elk.json.edgeCoords": "ROOT",
  "elk.edgeRouting": "ORTHOGONAL",
  "elk.padding": "[top=24,left=24,bottom=24,right=24]",
  "elk.layered.considerModelOrder.strategy": "PREFER_NODES",
};

// The best placement takes minutes for hundreds of boxes, and a good one seconds.
const LARGE = 80; // boxes and labels
const PLACEMENT: Record<"small" | "large", LayoutOptions> = {
  small: { "elk.layered.nodePlacement.strategy": "NETWORK_SIMPLEX" },
  large: { "elk.layered.nodePlacement.strategy": "BRANDES_KOEPF", "elk.layered.thoroughness": "3" },
};

/** Return the height of a box above its ports (in a layout to the right). */
export function headHeight(box: Box): number {
  return PADDING + TITLE + (box.program ? PROGRAM : 0) + 6;
}

/** Shorten a text to a width: paths keep their end, which says most. */
export function fitted(text: string, font: Font, measure: Measure, keep: "start" | "end" = "start"): string {
  if (measure(text, font) <= MAX_TEXT) return text;
  let short = text;
  while (short.length > 1 && measure(`${short}…`, font) > MAX_TEXT)
    short = keep === "end" ? short.slice(1) : short.slice(0, -1);
  return keep === "end" ? `…${short}` : `${short}…`;
}

/** Place the boxes, groups and edges of a graph; `compact`: boxes are their titles only, edges have no labels. */
export async function place(
  graph: Graph,
  engine: Engine,
  measure: Measure,
  direction: Direction,
  label: (edge: Edge) => string = remarks,
  compact = false,
): Promise<Layout> {
  const drawing = new Drawing(graph, measure, direction, compact ? () => "" : label, compact);
  let placed = await engine.layout(drawing.root());
  // ELK finds the order of the ports, but would spread them over the whole side of a box. They belong
  // below its head, so with the order known they get their places, and all is laid out once more.
  if (direction === "RIGHT" && !compact) placed = await engine.layout(drawing.root(placed));
  return drawing.read(placed);
}

class Drawing {
  private boxes = new Map<string, Box>(); // by key
  private edges: { edge: Edge; source: string; target: string }[] = [];

  constructor(
    private graph: Graph,
    private measure: Measure,
    private direction: Direction,
    private label: (edge: Edge) => string,
    private compact: boolean,
  ) {
    const byId = new Map(graph.boxes.map((box) => [box.id, box]));
    for (const box of graph.boxes) if (!isGiven(box)) this.boxes.set(box.id, box);
    for (const edge of graph.edges) {
      const source = byId.get(edge.source)!;
      if (!isGiven(source)) {
        this.edges.push({ edge, source: source.id, target: edge.target });
        continue;
      }
      // One clock with edges all over the picture is hard to read: each receiver gets its own.
      const key = `${source.id} for ${edge.target}/${edge.input}`;
      this.boxes.set(key, { ...source, group: byId.get(edge.target)!.group });
      this.edges.push({ edge, source: key, target: edge.target });
    }
  }

  /** Return the graph for ELK; ports are ordered as in `before`, if it is given. */
  root(before?: ElkNode): ElkNode {
    const order = new Map<string, number>();
    const visit = (node: ElkNode) => {
      node.ports?.forEach((port) => order.set(port.id, port.y!));
      node.children?.forEach(visit);
    };
    if (before) visit(before);
    const labels = this.edges.filter(({ edge }) => this.label(edge)); // to ELK they are boxes, too
    return {
      id: "",
      layoutOptions: {
        ...ROOT,
        ...(this.compact ? DENSE : this.label === remarks ? {} : LABELLED),
        ...PLACEMENT[this.boxes.size + labels.length > LARGE ? "large" : "small"],
        "elk.direction": this.direction,
      },
      children: this.inside(null, order),
      edges: this.edges.map((item, index) => this.edge(item, index)),
    };
  }

  private inside(group: string | null, order: Map<string, number>): ElkNode[] {
    const groups = this.graph.groups.filter((inner) => inner.group === group);
    const boxes = [...this.boxes].filter(([, box]) => box.group === group);
    return [
      ...groups.map((inner) => ({
        id: `group ${inner.id}`,
        layoutOptions: { ...SPACING, "elk.padding": "[top=44,left=18,bottom=18,right=18]" },
        children: this.inside(inner.id, order),
      })),
      ...boxes.map(([key, box]) => this.box(key, box, order)),
    ];
  }

  private box(key: string, box: Box, order: Map<string, number>): ElkNode {
    const size = this.size(box);
    const inputs = box.inputs.map((name) => this.port(key, box, name, "input"));
    const outputs = box.outputs.map((name) => this.port(key, box, name, "output"));
    const fixed = order.size > 0 && !isGiven(box);
    if (fixed) {
      for (const [ports, x] of [[inputs, 0], [outputs, size.width]] as const)
        [...ports]
          .sort((a, b) => order.get(a.id)! - order.get(b.id)!)
          .forEach((port, row) => Object.assign(port, { x, y: headHeight(box) + row * ROW }));
    }
    return {
      id: `box ${key}`,
      ...size,
      ports: [...inputs, ...outputs],
      layoutOptions: {
        "elk.portConstraints": fixed ? "FIXED_POS" : "FIXED_SIDE",
        "elk.spacing.portPort": this.direction === "RIGHT" ? "0" : "6",
        "elk.spacing.portsSurrounding": "[top=0,left=0,bottom=0,right=0]",
      },
    };
  }

  // A port is as large as its line of text, so that lines never overlap.
  private port(key: string, box: Box, name: string, side: "input" | "output"): ElkPort {
    const right = this.direction === "RIGHT";
    const along = this.compact ? 0 : right ? ROW : Math.max(ROW, this.measure(name, "port") + 8);
    const sides = right ? { input: "WEST", output: "EAST" } : { input: "NORTH", output: "SOUTH" };
    return {
      id: `${side} ${key} ${name}`,
      width: right ? 0 : isGiven(box) ? 0 : along,
      height: right && !isGiven(box) ? along : 0,
      layoutOptions: { "elk.port.side": sides[side], "elk.port.borderOffset": "0" },
    };
  }

  private size(box: Box): { width: number; height: number } {
    const text = (value: string, font: Font) => this.measure(fitted(value, font, this.measure), font);
    if (isGiven(box)) return { width: text(box.label, "port") + 34, height: 26 };
    if (this.compact) return { width: text(box.label, "title") + 26 + PADDING, height: COMPACT };
    const head = Math.max(text(box.label, "title") + 26, text(box.program, "program"));
    const lengths = (names: string[]) => names.map((name) => this.measure(name, "port"));
    const widest = (names: string[]) => Math.max(0, ...lengths(names));
    if (this.direction === "RIGHT") {
      const rows = Math.max(box.inputs.length, box.outputs.length);
      const gap = box.inputs.length && box.outputs.length ? 28 : 0;
      return {
        width: Math.max(head, widest(box.inputs) + gap + widest(box.outputs)) + 2 * PADDING,
        height: headHeight(box) + rows * ROW + (rows ? 8 : 6),
      };
    }
    const along = (names: string[]) =>
      names.reduce((sum, name) => sum + Math.max(ROW, this.measure(name, "port") + 8) + 6, 0);
    const height = headHeight(box) + (box.inputs.length ? ROW - 6 : 0) + (box.outputs.length ? ROW : 6);
    return { width: Math.max(head + 2 * PADDING, along(box.inputs) + 16, along(box.outputs) + 16), height };
  }

  private edge(item: { edge: Edge; source: string; target: string }, index: number): ElkExtendedEdge {
    const text = this.label(item.edge);
    return {
      id: `edge ${index}`,
      sources: [`output ${item.source} ${item.edge.output}`],
      targets: [`input ${item.target} ${item.edge.input}`],
      labels: text
        ? [
            {
              text,
              width: this.measure(text, "remark") + 14,
              height: 18,
              layoutOptions: { "elk.edgeLabels.inline": "true" },
            },
          ]
        : [],
    };
  }

  read(root: ElkNode): Layout {
    const boxes: PlacedBox[] = [];
    const groups: PlacedGroup[] = [];
    const byId = new Map(this.graph.groups.map((group) => [group.id, group]));
    const visit = (node: ElkNode) => {
      const area = { x: node.x!, y: node.y!, width: node.width!, height: node.height! };
      if (node.id.startsWith("group ")) groups.push({ ...area, group: byId.get(node.id.slice(6))! });
      else if (node.id) boxes.push(this.readBox(node, area));
      node.children?.forEach(visit);
    };
    visit(root);
    return {
      x: 0,
      y: 0,
      width: root.width!,
      height: root.height!,
      direction: this.direction,
      compact: this.compact,
      boxes,
      groups,
      edges: root.edges!.map((edge, index) => this.readEdge(edge, index)),
    };
  }

  private readBox(node: ElkNode, area: Area): PlacedBox {
    const key = node.id.slice(4);
    const box = this.boxes.get(key)!;
    const names = [
      ...box.inputs.map((name) => ({ name, side: "input" as const })),
      ...box.outputs.map((name) => ({ name, side: "output" as const })),
    ];
    const ports = node.ports!.map((port, index) => ({
      ...names[index]!,
      x: port.x! + port.width! / 2 - area.x,
      y: port.y! + port.height! / 2 - area.y,
    }));
    return { ...area, key, box, ports };
  }

  private readEdge(placed: ElkExtendedEdge, index: number): PlacedEdge {
    const points = (placed.sections ?? []).flatMap((section) => [
      section.startPoint,
      ...(section.bendPoints ?? []),
      section.endPoint,
    ]);
    const label = placed.labels?.[0];
    return {
      ...this.edges[index]!,
      points,
      label: label
        ? { text: label.text!, x: label.x!, y: label.y!, width: label.width!, height: label.height! }
        : null,
    };
  }
}
