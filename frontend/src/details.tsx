// About what is selected: a node or a link, its figures and its parameters.

import type { ComponentChildren } from "preact";
import { type Box, contract, type Edge, ends, type Graph, isGiven } from "./graph";
import { Chip, useFeed } from "./hooks";
import { failedNodes, labelOfLink, linksOf, nodeOf, rate, sentenceOfPath, sentences, sentencesOfNetwork, short, shownCounters, size, toneOfLink, toneOfNode, whole } from "./model";
import { NodeActions } from "./node_actions";
import { ParameterList, PastParameters } from "./parameters";
import type { Past } from "./past";
import type { Feed } from "./feed";
import { copy, quoted, say } from "./toasts";
import type { Selected } from "./view";

export interface DetailsProps {
  uuid: string;
  feed: Feed;
  graph: Graph;
  selected: Selected;
  running: boolean;
  onSelect: (selected: Selected) => void;
  onLogs: (node: string) => void;
  overall?: ComponentChildren; // about the recording
}

export function DetailsPane(props: DetailsProps) {
  useFeed(props.feed, "state");
  const { selected, feed } = props;
  return (
    <section class="pane side details" aria-label="Details">
      {feed.state?.trouble && <p class="bad">{feed.state.trouble}</p>}
      {selected?.kind === "box" && <NodeDetails key={selected.id} {...props} id={selected.id} />}
      {selected?.kind === "edge" && <EdgeDetails {...props} edge={selected.edge} />}
      {!selected && props.overall}
      {!selected && !(feed.isPast && props.graph.edges.length === 0) && <Overall {...props} />}
      {selected?.kind === "box" && props.running && boxOf(props.graph, selected.id) && (
        <ParameterList key={`parameters ${selected.id}`} uuid={props.uuid} node={nodeOf(boxOf(props.graph, selected.id)!)} operator={selected.id} />
      )}
      {selected?.kind === "box" && feed.isPast && boxOf(props.graph, selected.id) && (
        <PastParameters past={feed as Past} node={nodeOf(boxOf(props.graph, selected.id)!)} />
      )}
    </section>
  );
}

function NodeDetails(props: DetailsProps & { id: string }) {
  const { graph, feed } = props;
  const box = boxOf(graph, props.id);
  if (!box) return null;
  const node = feed.state?.nodes.find((candidate) => candidate.id === nodeOf(box));
  const incoming = graph.edges.filter((edge) => edge.target === box.id);
  return (
    <>
      <h2>{box.label}</h2>
      <p class="quiet">
        {box.label === box.id ? box.kind : `${box.kind} ${box.id}`} {node && <Chip tone={toneOfNode(node)}>{node.status}</Chip>}
      </p>
      {node?.failure && <p class="bad">{node.failure.reason}</p>}
      {box.description && <p>{box.description}</p>}
      {box.program && <code class="program">{box.program}</code>}
      {node && (
        <dl class="figures">
          <Figure name="CPU">{node.cpu === null ? "–" : `${node.cpu.toFixed(1)} %`}</Figure>
          <Figure name="Memory">{node.memory === null ? "–" : size(node.memory)}</Figure>
          {shownCounters([node]).map(({ label, of }) => <Figure key={label} name={label}>{whole(of(node))}</Figure>)}
          {node.machine && <Figure name="Machine">{node.machine}</Figure>}
          <Figure name="Process">{node.pid ?? "–"}</Figure>
          <Figure name="Sends">{rate(node.sent_hz)}</Figure>
          <Figure name="Dropped">{whole(node.dropped)}</Figure>
          <Figure name="Waiting">{whole(node.waiting)}</Figure>
          <Figure name="Quiet">{node.quiet === null ? "–" : `${short(node.quiet)} s`}</Figure>
        </dl>
      )}
      <div class="row">
        <button class="button" onClick={() => props.onLogs(nodeOf(box))}>Its log</button>
        {node && props.running && <NodeActions uuid={props.uuid} node={node} />}
        {feed.isPast && <DebugButton past={feed as Past} node={nodeOf(box)} />}
      </div>
      {incoming.length > 0 && <h3>Inputs</h3>}
      {incoming.map((edge) => <LinkRow key={`in ${edge.input}`} {...props} edge={edge} name={edge.input} other={ends(edge)[0]} />)}
      {box.outputs.length > 0 && <h3>Outputs</h3>}
      {box.outputs.flatMap((output) => {
        const edges = graph.edges.filter((edge) => edge.source === box.id && edge.output === output);
        if (!edges.length) return [<div class="item" key={output}><b>{output}</b><span>nobody listens</span></div>];
        return edges.map((edge) => <LinkRow key={`${output} ${edge.target} ${edge.input}`} {...props} edge={edge} name={output} other={ends(edge)[1]} />);
      })}
    </>
  );
}

/** A button that copies the command which runs a node alone, up to the moment that is shown. */
function DebugButton({ past, node }: { past: Past; node: string }) {
  if (!past.about.own || past.isTemporary) return null;
  const command = `dora debug ${quoted(past.about.path)} ${node} --at ${(past.at / 1e9).toFixed(3)}s`;
  const onClick = () => void copy(command).then((done) => say({ text: done ? `Copied: ${command}` : command }));
  return <button class="button" title={`Copy: ${command}`} onClick={onClick}>Debug from here</button>;
}

function LinkRow(props: DetailsProps & { edge: Edge; name: string; other: string }) {
  const link = linksOf(props.feed.state, props.graph).of(props.edge);
  return (
    <button class="item" onClick={() => props.onSelect({ kind: "edge", edge: props.edge })}>
      <b>{props.name}</b>
      <span>{props.other}</span>
      {link && <small class={toneOfLink(link, props.edge)}>{labelOfLink(link)}</small>}
    </button>
  );
}

function EdgeDetails(props: DetailsProps & { edge: Edge }) {
  const { edge } = props;
  const [from, to] = ends(edge);
  const link = linksOf(props.feed.state, props.graph).of(edge);
  const source = boxOf(props.graph, edge.source);
  return (
    <>
      <h2>{from} → {to}</h2>
      {link && <p><Chip tone={toneOfLink(link, edge)}>{labelOfLink(link)}</Chip></p>}
      {link && sentences(link, edge).map((line) => <p key={line}>{line}</p>)}
      {contract(edge).map((line) => <p class="quiet" key={line}>{line}</p>)}
      <div class="row">
        {source && !isGiven(source) && <button class="button" onClick={() => props.onSelect({ kind: "box", id: edge.source })}>{edge.source}</button>}
        <button class="button" onClick={() => props.onSelect({ kind: "box", id: edge.target })}>{edge.target}</button>
      </div>
    </>
  );
}

function Overall(props: DetailsProps) {
  const { state } = props.feed;
  const links = linksOf(props.feed.state, props.graph);
  const losing = props.graph.edges.filter((edge) => !edge.asks_for_drops && (links.of(edge)?.dropped ?? 0) > 0);
  const failed = failedNodes(state);
  const networks = state?.networks ?? [];
  const paths = state?.paths.filter((path) => path.messages > 0) ?? [];
  return (
    <>
      <h2>Overview</h2>
      <p class="quiet">Select a node or a link to see what it does.</p>
      {state && state.nodes.some((node) => node.status !== "Recorded") && (
        <dl class="figures">
          <Figure name="Nodes">{state.nodes.length}</Figure>
          <Figure name="CPU">{sum(state.nodes.map((node) => node.cpu)).toFixed(0)} %</Figure>
          <Figure name="Memory">{size(sum(state.nodes.map((node) => node.memory)))}</Figure>
          <Figure name="Taken">{rate(sum(state.links.map((link) => link.hz)))}</Figure>
        </dl>
      )}
      {failed.length > 0 && <h3>Failed</h3>}
      {failed.map((node) => (
        <button class="item" key={node.id} onClick={() => props.onLogs(node.id)}><b class="bad">{node.id}</b><span>its log</span><small class="bad">{node.failure!.reason}</small></button>
      ))}
      {paths.length > 0 && <h3>From source to sink</h3>}
      {paths.map((path) => (
        <p key={`${path.source} ${path.target}`}>
          <b class={path.missed ? "warn" : ""}>{path.source} → {path.target}</b> {sentenceOfPath(path)}
        </p>
      ))}
      {networks.length > 0 && <h3>Between machines</h3>}
      {networks.map((network) => (
        <div key={`${network.source} ${network.target}`}>
          <p>
            <b>{network.source} → {network.target}</b> <Chip tone={network.state === "connected" ? "fine" : "bad"}>{network.state}</Chip>
          </p>
          {sentencesOfNetwork(network).map((line) => <p key={line}>{line}</p>)}
        </div>
      ))}
      {losing.length > 0 && <h3>Losses</h3>}
      {losing.map((edge) => <LinkRow key={ends(edge).join()} {...props} edge={edge} name={ends(edge).join(" → ")} other={`${whole(links.of(edge)!.dropped)} dropped`} />)}
    </>
  );
}

function Figure(props: { name: string; children: ComponentChildren }) {
  return (
    <div>
      <dt>{props.name}</dt>
      <dd>{props.children}</dd>
    </div>
  );
}

function sum(values: (number | null)[]): number {
  return values.reduce<number>((total, value) => total + (value ?? 0), 0);
}

function boxOf(graph: Graph, id: string): Box | undefined {
  return graph.boxes.find((box) => box.id === id);
}
