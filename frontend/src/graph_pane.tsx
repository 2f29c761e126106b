// The graph, kept up to date.

import ELK from "elkjs/lib/elk-api";
import { useEffect, useRef, useState } from "preact/hooks";
import type { Box, Graph } from "./graph";
import { IconButton, useNarrow } from "./hooks";
import { labelOfLink, Links, nodeOf, type NodeState, rate, sentences, size, toneOfLink, toneOfNode } from "./model";
import type { Feed } from "./feed";
import type { Direction } from "./layout";
import { GraphView, type Selected } from "./view";

// The engine works in a thread of its own: a large graph takes it seconds.
const engine = new ELK({ workerFactory: () => new Worker("/assets/elk.js") });

const ROOM = "9999 Hz · 99.9 ms"; // what the label of an edge may say
const TOOLS = { wide: { right: 52, bottom: 0 }, narrow: { right: 0, bottom: 58 } }; // pixels that the buttons cover
const STATUS = "100 % · 9999 MB"; // the same for a node

export function GraphPane(props: {
  feed: Feed;
  graph: Graph;
  several: boolean; // the dataflow is on several machines
  selected: Selected;
  onSelect: (selected: Selected) => void;
  large: boolean; // it has the room of all panes
  onLarge: (large: boolean) => void;
  highest: number; // percent of the panes that it may take; 0: it has a height of its own
  onNeed: (percent: number) => void; // how much it would take
}) {
  const place = useRef<HTMLDivElement>(null);
  const view = useRef<GraphView | null>(null);
  const redraw = useRef((_?: Direction) => {});
  const links = useRef(new Links(null, new Map()));
  const [problem, setProblem] = useState("");
  const [wanted, setWanted] = useState<boolean | null>(null); // null: as there is room
  const [compact, setCompact] = useState(false);
  const [laidOut, setLaidOut] = useState(false);
  const { feed, graph } = props;
  const narrow = useNarrow();

  useEffect(() => {
    const boxes = new Map(graph.boxes.map((box) => [box.id, box]));
    // A node says how it is where the page of `dora graph` says what program it runs.
    const alone = (box: Box) => !box.id.includes("/");
    const shown = {
      ...graph,
      boxes: graph.boxes.map((box) => ({ ...box, program: alone(box) ? (props.several ? `machine: ${STATUS}` : STATUS) : "" })),
    };
    const made = new GraphView(place.current!, shown, engine, props.onSelect, {
      room: (edge) => (edge.kind === "timer" ? "" : ROOM),
      more: (edge) => {
        const link = links.current.of(edge);
        return link ? sentences(link, edge) : [];
      },
    });
    made.covered = narrow ? TOOLS.narrow : TOOLS.wide;
    made.wantsCompact = wanted;
    const panes = place.current!.closest("main")!;
    made.highest = (panes.clientHeight * props.highest) / 100;
    view.current = made;
    const refresh = () => {
      links.current = new Links(feed.state, boxes);
      const nodes = new Map(feed.state?.nodes.map((node) => [node.id, node]));
      for (const box of graph.boxes) {
        const node = nodes.get(nodeOf(box));
        if (node && alone(box)) made.noteBox(box.id, words(node), toneOfNode(node));
        else if (alone(box)) made.noteBox(box.id, "", "rest");
      }
      for (const group of graph.groups) {
        const node = nodes.get(group.id);
        if (node && group.kind === "runtime") made.noteGroup(group.id, words(node), toneOfNode(node));
      }
      made.noteEdges((edge) => {
        const link = links.current.of(edge);
        return link ? [labelOfLink(link, true), toneOfLink(link, edge)] : ["", "fine"];
      });
    };
    let present = true; // another dataflow may be drawn before this one is laid out
    redraw.current = (direction) =>
      void made.draw(direction ?? made.naturalDirection).then(
        () => {
          if (!present) return;
          refresh();
          setCompact(made.compact);
          props.onNeed((100 * made.neededHeight) / panes.clientHeight);
          setLaidOut(true);
          document.body.classList.add("ready");
        },
        (error: Error) => present && setProblem(`The graph cannot be laid out: ${error.message}`),
      );
    redraw.current();
    const off = feed.on("state", refresh);
    const size = new ResizeObserver(() => made.refit());
    size.observe(place.current!);
    return () => {
      size.disconnect();
      present = false;
      off();
      place.current?.replaceChildren();
    };
  }, [feed, graph, props.several, wanted, narrow, props.large]);

  useEffect(() => view.current?.highlightOnly(props.selected), [props.selected, graph, laidOut]);

  const turn = () => {
    const made = view.current;
    if (made) redraw.current(made.direction === "RIGHT" ? "DOWN" : "RIGHT");
  };
  return (
    <section class="canvas pane" id="graph" aria-label="Graph">
      <div class="fill" ref={place} />
      {problem ? <p class="hint">{problem}</p> : !laidOut && <p class="hint">Laying out the graph …</p>}
      <div class="tools">
        <IconButton path="M2 6V2h4M2.5 2.5C7 2 13 5 13 12M10.5 9.500 13 12.500l2.500-3" label="Lay out in the other direction" onClick={turn} />
        <IconButton path="M2 4h12M2 8h12M2 12h12" label="Titles only" pressed={compact} onClick={() => setWanted(!compact)} />
        <IconButton path="M3 8h10" label="Smaller" onClick={() => view.current?.scaleBy(1 / 1.3)} />
        <IconButton path="M3 8h10M8 3v10" label="Larger" onClick={() => view.current?.scaleBy(1.3)} />
        <IconButton path="M2 6V2h4M10 2h4v4M14 10v4h-4M6 14H2v-4" label="Show all" onClick={() => view.current?.fit(true)} />
        {!narrow && <IconButton path="M2 3h12v10H2zM2 9h12" label="Only the graph" pressed={props.large} onClick={() => props.onLarge(!props.large)} />}
      </div>
    </section>
  );
}

function words(node: NodeState): string {
  if (node.status === "Recorded") return node.sent_hz ? `sends ${rate(node.sent_hz)}` : "";
  const figures = node.cpu === null || node.status !== "Running" ? node.status : `${node.cpu.toFixed(0)} % · ${size(node.memory ?? 0)}`;
  return node.machine ? `${node.machine}: ${figures}` : figures;
}
