// The previews of outputs, several side by side; people arrange them, and the browser remembers how.

import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { type Edge, type Graph, isGiven } from "./graph";
import { Icon, IconButton, useFeed } from "./hooks";
import { LayoutButtons, type StoredLayout, useLayout } from "./layouts";
import { fullName } from "./model";
import { chooseOutputs, columnsFor, GAP, LOWEST, type Panel, ROW, rowsFor, topicsOf, topicsOfGraph } from "./panels";
import type { Past } from "./past";
import { PreviewBody, PreviewFacts } from "./preview";
import type { Feed } from "./feed";
import type { Selected } from "./view";

const PADDING = 12; // pixels below the grid, as in dashboard.css

/** The previews in the arrangement that the browser remembers for a dataflow; the name does not change. */
export function StoredDataPane({ name, ...props }: { name: string; feed: Feed; graph: Graph; selected: Selected; ended: boolean }) {
  return <DataPane {...props} layout={useLayout(name)} />;
}

export function DataPane(props: { feed: Feed; graph: Graph; layout: StoredLayout; selected: Selected; ended: boolean }) {
  const { feed, graph, selected } = props;
  useFeed(feed, "connection");
  useFeed(feed, "kinds");
  useFeed(feed, "state");
  const { panels: arranged, setPanels: setArranged } = props.layout;
  const [dragged, setDragged] = useState<{ topic: string; over: string } | null>(null);
  const [enlarged, setEnlarged] = useState<string | null>(null);
  const grid = useRef<HTMLDivElement>(null);
  const room = useSize(grid);

  const topics = topicsOfGraph(graph);
  const { shown: automatic, probed } = chooseOutputs(topics, feed);
  const kept = (arranged ?? automatic).filter((panel) => topics.includes(panel.topic));
  const chosen = selected?.kind === "box" ? topicsOf(graph, selected.id) : selected ? topicOf(graph, selected.edge) : [];
  const passing = chosen.filter((topic) => !kept.some((panel) => panel.topic === topic));
  const all = [...passing.map((topic): Panel => ({ topic, wide: 1, high: 0 })), ...kept];
  const large = all.find((panel) => panel.topic === enlarged);
  const shown = large ? [large] : all;
  useLook(feed, arranged || (props.ended && !feed.isPast) ? [] : probed);
  const first = chosen[0];
  useEffect(() => {
    grid.current?.querySelector(`[data-topic="${CSS.escape(first ?? "")}"]`)?.scrollIntoView({ block: "nearest" });
  }, [first]);

  const columns = columnsFor(room.width, shown.length);
  const column = (room.width - GAP * (columns - 1)) / columns;
  const most = Math.max(LOWEST, Math.floor((room.height + GAP) / ROW));
  const sizeOf = (panel: Panel): Panel => {
    if (panel === large) return { ...panel, wide: 1, high: 1 };
    const wide = Math.min(panel.wide, columns);
    const width = column * wide + GAP * (wide - 1);
    return { ...panel, wide, high: panel.high || rowsFor(feed.heads.get(panel.topic), width, most) };
  };
  const change = (topic: string, size: Partial<Panel>) =>
    setArranged(all.filter((panel) => panel.topic === topic || kept.includes(panel)).map((panel) => (panel.topic === topic ? { ...panel, ...size } : panel)));
  const move = (topic: string, to: number) => {
    const panel = kept.find((candidate) => candidate.topic === topic);
    if (!panel || to < 0 || to >= kept.length) return;
    const others = kept.filter((candidate) => candidate !== panel);
    setArranged([...others.slice(0, to), panel, ...others.slice(to)]);
  };
  const indexOf = (topic: string) => kept.findIndex((panel) => panel.topic === topic);
  const missing = topics.filter((topic) => !all.some((panel) => panel.topic === topic));

  return (
    <section class="pane data" id="data" aria-label="Data">
      <div class="bar">
        <h2>Data</h2>
        {missing.length > 0 && (
          <select
            aria-label="Add a preview"
            value=""
            onChange={(event) => {
              const topic = event.currentTarget.value;
              if (topic) setArranged([...kept, { topic, wide: 1, high: 0 }]);
              event.currentTarget.value = "";
            }}
          >
            <option value="">Add …</option>
            {missing.map((topic) => <option key={topic} value={topic}>{topic}</option>)}
          </select>
        )}
        {arranged && <button class="button" title="Show the most informative outputs again" onClick={() => setArranged(null)}>Reset</button>}
        <LayoutButtons layout={props.layout} shown={all} />
        {feed.paused && !props.ended && <span class="quiet">paused</span>}
        {!props.ended && <IconButton path={feed.paused ? "M5 3l8 5-8 5z" : "M5.500 3v10M10.500 3v10"} label={feed.paused ? "Go on" : "Pause the previews"} pressed={feed.paused} onClick={() => feed.pause(!feed.paused)} />}
      </div>
      <div class="panels">
        {shown.length === 0 && (
          <p class="quiet waiting">{topics.length === 0 ? "No node has an output." : feed.isPast && !arranged ? "Nothing was sent up to this moment." : arranged ? "No preview is chosen." : props.ended ? "Nothing was shown before the end." : "Waiting for the first message …"}</p>
        )}
        <div class="grid" ref={grid} style={{ gridTemplateColumns: `repeat(${columns}, minmax(0, 1fr))`, gridAutoRows: large ? `${room.height}px` : undefined }}>
          {shown.map((panel) => (
            <PanelCard
              key={panel.topic}
              feed={feed}
              graph={graph}
              panel={sizeOf(panel)}
              column={column}
              chosen={chosen.includes(panel.topic)}
              passing={passing.includes(panel.topic)}
              large={panel === large}
              onLarge={() => setEnlarged(large ? null : panel.topic)}
              target={dragged?.over === panel.topic && dragged.topic !== panel.topic}
              onSize={(size) => change(panel.topic, size)}
              onKeep={() => change(panel.topic, {})}
              onClose={() => setArranged(kept.filter((other) => other.topic !== panel.topic))}
              onStep={(step) => move(panel.topic, indexOf(panel.topic) + step)}
              onDrag={(over, done) => {
                setDragged(done ? null : { topic: panel.topic, over });
                if (done && indexOf(over) >= 0) move(panel.topic, indexOf(over));
              }}
            />
          ))}
        </div>
      </div>
    </section>
  );
}

interface PanelProps {
  feed: Feed;
  graph: Graph;
  panel: Panel; // with its real size
  column: number; // pixels
  chosen: boolean;
  passing: boolean; // shown while its node is selected
  large: boolean; // alone in the pane
  onLarge: () => void;
  target: boolean;
  onSize: (size: Partial<Panel>) => void;
  onKeep: () => void;
  onClose: () => void;
  onStep: (step: number) => void;
  onDrag: (over: string, done: boolean) => void;
}

function PanelCard(props: PanelProps) {
  const { feed, panel } = props;
  const card = useRef<HTMLElement>(null);
  const { topic } = panel;
  useLookWhileVisible(feed, topic, card);
  useFeed(feed, `preview ${topic}`);
  useFeed(feed, "differences");
  const preview = feed.previews.get(topic);
  const differs = feed.isPast && preview ? (feed as Past).differenceOf(topic) : "";
  const from = useRef({ x: 0, y: 0, wide: 1, high: 1 });

  const under = (event: PointerEvent) => {
    const found = document.elementFromPoint(event.clientX, event.clientY)?.closest<HTMLElement>(".panel");
    return found?.dataset.topic ?? topic;
  };
  const resizeTo = (event: PointerEvent) => {
    const { x, y, wide, high } = from.current;
    const size = {
      wide: Math.max(1, Math.round(wide + (event.clientX - x) / (props.column + GAP))),
      high: Math.max(LOWEST, Math.round(high + (event.clientY - y) / ROW)),
    };
    if (size.wide !== panel.wide || size.high !== panel.high) props.onSize(size);
  };
  const grab = (event: PointerEvent) => {
    (event.currentTarget as HTMLElement).setPointerCapture(event.pointerId);
    from.current = { x: event.clientX, y: event.clientY, wide: panel.wide, high: panel.high };
  };
  const held = (event: PointerEvent) => (event.currentTarget as HTMLElement).hasPointerCapture(event.pointerId);
  const onMoveKey = (event: KeyboardEvent) => {
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    props.onStep(step);
  };
  const onSizeKey = (event: KeyboardEvent) => {
    const [wide, high] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -2], ArrowDown: [0, 2] }[event.key] ?? [0, 0];
    if (!wide && !high) return;
    event.preventDefault();
    props.onSize({ wide: Math.max(1, panel.wide + wide!), high: Math.max(LOWEST, panel.high + high!) });
  };
  const style = { gridColumn: `span ${panel.wide}`, gridRow: `span ${panel.high}` };
  return (
    <article
      ref={card}
      class={`card panel${props.chosen ? " chosen" : ""}${props.target ? " target" : ""}${differs ? " differing" : ""}`}
      data-topic={topic}
      data-number={preview?.head.number ?? ""}
      style={style}
    >
      <header>
        <button
          class="grip"
          aria-label={`Move ${topic}`}
          title="Drag, or press an arrow key"
          disabled={props.passing || props.large}
          onKeyDown={onMoveKey}
          onPointerDown={grab}
          onPointerMove={(event) => held(event) && props.onDrag(under(event), false)}
          onPointerUp={(event) => held(event) && props.onDrag(under(event), true)}
        >
          <h3>{topic}</h3>
        </button>
        <button class="pin" aria-label={`${props.large ? "Shrink" : "Enlarge"} ${topic}`} title={props.large ? "All previews" : "Enlarge"} onClick={props.onLarge}>
          <Icon path={props.large ? "M6 2.500V6H2.500M13.500 6H10V2.500M10 13.500V10h3.500M2.500 10H6v3.500" : "M3 6V3h3M10 3h3v3M13 10v3h-3M6 13H3v-3"} />
        </button>
        {props.passing ? (
          <button class="pin" onClick={props.onKeep}>Keep</button>
        ) : (
          <button class="pin" aria-label={`Close ${topic}`} title="Close" onClick={props.onClose}><Icon path="M4 4l8 8M12 4l-8 8" /></button>
        )}
      </header>
      {differs && <p class="warn differs" title={differs}>≠ {differs}</p>}
      <div class="content">
        {preview ? <PreviewBody feed={feed} topic={topic} backdrops={backdrops(props.graph, topic, feed)} preview={preview} /> : <p class="quiet">{feed.isPast ? "The recording has nothing of it up to this moment." : "Waiting for a message …"}</p>}
      </div>
      {preview && <PreviewFacts head={preview.head} />}
      {!props.large && <button
        class="resize"
        aria-label={`Resize ${topic}`}
        title="Drag, or press an arrow key"
        onKeyDown={onSizeKey}
        onPointerDown={grab}
        onPointerMove={(event) => held(event) && resizeTo(event)}
      />}
    </article>
  );
}

function topicOf(graph: Graph, edge: Edge): string[] {
  const box = graph.boxes.find((candidate) => candidate.id === edge.source);
  return box && !isGiven(box) && edge.kind !== "text" ? [fullName(box, edge.output)] : [];
}

const IMAGE = /image|frame|color|rgb|picture/i;

/** Return the topics that come before one, the nearest first and of those what sounds like images; then the images of its own node. */
function backdrops(graph: Graph, topic: string, feed: Feed): string[] {
  const found: string[] = [];
  const own = graph.boxes.filter((box) => box.outputs.some((output) => fullName(box, output) === topic));
  let level = own.map((box) => box.id);
  for (let steps = 0; steps < 4 && level.length; steps++) {
    const edges = graph.edges.filter((edge) => level.includes(edge.target) && !found.includes(topicOf(graph, edge)[0] ?? topic));
    const topics = edges.flatMap((edge) => topicOf(graph, edge).map((name) => [name, IMAGE.test(name + edge.type)] as const));
    found.push(...new Set([...topics].sort((a, b) => Number(b[1]) - Number(a[1])).map(([name]) => name)));
    level = edges.map((edge) => edge.source);
  }
  const beside = own.flatMap((box) => box.outputs.map((output) => fullName(box, output))).filter((name) => name !== topic && IMAGE.test(name));
  // A recording of another program does not say what was made of what.
  const all = graph.edges.length === 0 ? [...feed.heads.values()].filter(({ kind }) => kind === "image").map((head) => head.topic) : [];
  return [...new Set([...found, ...beside, ...all])];
}

/** Look at topics as long as they are in the list. */
function useLook(feed: Feed, topics: string[]): void {
  useEffect(() => {
    const ends = topics.map((topic) => feed.look(topic));
    return () => ends.forEach((end) => end());
  }, [feed, topics.join("\n")]);
}

/** Look at a topic while an element is on the screen: what nobody sees costs nothing. */
function useLookWhileVisible(feed: Feed, topic: string, element: { current: HTMLElement | null }): void {
  useEffect(() => {
    let end: (() => void) | null = null;
    const watch = new IntersectionObserver((entries) => {
      const visible = entries[entries.length - 1]!.isIntersecting;
      if (visible === (end !== null)) return;
      if (end) end();
      end = visible ? feed.look(topic) : null;
    });
    watch.observe(element.current!);
    return () => {
      watch.disconnect();
      end?.();
    };
  }, [feed, topic]);
}

/** Return the size of the visible part of a grid. */
function useSize(element: { current: HTMLElement | null }): { width: number; height: number } {
  const [size, setSize] = useState({ width: 600, height: 400 });
  useLayoutEffect(() => {
    const outer = element.current!.parentElement!;
    const measure = () => {
      if (element.current && outer.clientWidth) setSize({ width: element.current.clientWidth, height: outer.clientHeight - PADDING });
    };
    measure();
    const watch = new ResizeObserver(measure);
    watch.observe(outer);
    return () => watch.disconnect();
  }, []);
  return size;
}
