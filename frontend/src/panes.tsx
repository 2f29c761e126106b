// The panes of one dataflow: the graph, what is selected, the data, the last minute and the log.

import type { ComponentChildren } from "preact";
import { useCallback, useEffect, useState } from "preact/hooks";
import { StoredDataPane } from "./data_pane";
import { DetailsPane } from "./details";
import type { Feed } from "./feed";
import type { Graph } from "./graph";
import { GraphPane } from "./graph_pane";
import { Splitter, useNarrow, useStored } from "./hooks";
import { LogPane } from "./logs";
import { MinutePane } from "./minute";
import type { Source } from "./model";
import { NodesPane } from "./nodes";
import { SourcePane } from "./source";
import type { Selected } from "./view";

type Tab = "data" | "graph" | "minute" | "details" | "nodes" | "source" | "logs";
const TABS: [Tab, string][] = [
  ["data", "Data"],
  ["graph", "Graph"],
  ["minute", "Rates"],
  ["details", "Details"],
  ["nodes", "Nodes"],
  ["source", "YAML"],
  ["logs", "Logs"],
];
const GRAPHLESS: Tab[] = ["data", "details", "logs"]; // of a recording without a dataflow
const SPLITS = { graph: 0, left: 30, data: 53, alone: 76 }; // percent of the panes before the borders; 0: as the graph needs; `alone`: the data without a graph
const LEAST = 24; // percent that the graph takes by itself
const MOST = 42;

/** What a user has chosen in the panes. */
export interface Chosen {
  tab: Tab; // on a phone; where there is room, only for the pane below the graph
  setTab: (tab: Tab) => void;
  selected: Selected;
  setSelected: (selected: Selected) => void;
  node: string; // of the log
  showLog: (node: string) => void;
  setNode: (node: string) => void;
}

export function useChosen(): Chosen {
  const [tab, setTab] = useState<Tab>("data");
  const [selected, setSelected] = useState<Selected>(null);
  const [node, setNode] = useState("");
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => event.key === "Escape" && setSelected(null);
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);
  const showLog = (of: string) => {
    setNode(of);
    setTab("logs");
  };
  return { tab, setTab, selected, setSelected, node, showLog, setNode };
}

export function Panes(props: {
  feed: Feed;
  graph: Graph | null;
  chosen: Chosen;
  uuid: string; // of the run; "" for a recording
  name: string | null; // under which the browser remembers the arrangement; null: not known yet
  file: string | null;
  source: Source | null;
  nodes: string[];
  several: boolean; // the dataflow is on several machines
  running: boolean;
  lost: boolean; // the connection
  latency: boolean;
  onLatency: (latency: boolean) => void;
  overall?: ComponentChildren; // about the recording
}) {
  const { feed, graph, chosen, running } = props;
  const { tab, setTab, selected, setSelected, node, setNode, showLog } = chosen;
  const [splits, setSplits] = useStored("borders", SPLITS);
  const narrow = useNarrow();
  const [need, setNeed] = useState(LEAST); // percent that would show the graph
  const [large, setLarge] = useState(false); // the graph has the room of all panes
  const isGraphless = feed.isPast && graph !== null && graph.edges.length === 0;
  const select = useCallback((wanted: Selected) => {
    setSelected(wanted);
    // On a phone a tap on a node leads to what it sends.
    if (wanted && narrow) setTab("data");
  }, [narrow]);
  useEffect(() => {
    if (isGraphless) document.body.classList.add("ready");
  }, [isGraphless]);

  const nodeOfSelection = selected?.kind === "box" ? selected.id.split("/")[0]! : selected?.kind === "edge" ? selected.edge.target.split("/")[0]! : null;
  const side = tab === "nodes" || tab === "source" ? tab : "details";
  const graphHeight = splits.graph || Math.max(LEAST, Math.min(MOST, Math.ceil(need)));
  const split = (name: keyof typeof SPLITS) => (size: number) => setSplits({ ...SPLITS, ...splits, [name]: size });
  const dataHeight = isGraphless ? (splits.alone ?? SPLITS.alone) : splits.data;
  const tabs = TABS.filter(([name]) => (isGraphless ? GRAPHLESS.includes(name) : name !== "source" || !feed.isPast || props.source));
  return (
    <main
      class="dataflow"
      data-tab={tab}
      data-stale={props.lost}
      data-large={large}
      data-graphless={isGraphless}
      style={{ "--left": `${splits.left}%`, "--graph": `${graphHeight}%`, "--data": `${dataHeight}%` }}
    >
      {!isGraphless && (graph ? <GraphPane feed={feed} graph={graph} several={props.several} selected={selected} onSelect={select} large={large} onLarge={setLarge} highest={splits.graph ? 0 : MOST} onNeed={setNeed} /> : <section class="canvas pane" id="graph"><p class="hint">Waiting for the dataflow …</p></section>)}
      {!isGraphless && <Splitter label="Height of the graph" axis="y" size={graphHeight} onSize={split("graph")} />}
      <div class="lower">
        <div class="column left">
          <div class="tabs" role="tablist" aria-label="Panes">
            {tabs.map(([name, label]) => (
              <button key={name} role="tab" class="tab" data-name={name} aria-selected={(narrow ? tab : side) === name} onClick={() => setTab(name)}>{label}</button>
            ))}
          </div>
          {graph && side === "details" && (
            <DetailsPane uuid={props.uuid} feed={feed} graph={graph} selected={selected} running={running} onSelect={setSelected} onLogs={showLog} overall={props.overall} />
          )}
          {graph && side === "nodes" && <NodesPane feed={feed} graph={graph} onSelect={(wanted) => { setSelected(wanted); setTab("details"); }} />}
          {side === "source" && <SourcePane file={props.file} source={props.source} node={nodeOfSelection} />}
        </div>
        <Splitter label="Width of the details" axis="x" size={splits.left} onSize={split("left")} />
        <div class="column right">
          {graph && props.name !== null ? <StoredDataPane key={props.name} name={props.name} feed={feed} graph={graph} selected={selected} ended={!running && feed.connection !== "opening"} /> : <section class="pane data" />}
          <Splitter label="Height of the data" axis="y" size={dataHeight} onSize={split(isGraphless ? "alone" : "data")} />
          {!isGraphless && (graph ? <MinutePane feed={feed} graph={graph} selected={selected} latency={props.latency} onLatency={props.onLatency} /> : <section class="pane minute" />)}
          <LogPane feed={feed} nodes={props.nodes} node={node} onNode={setNode} />
        </div>
      </div>
    </main>
  );
}
