// All nodes as a table.

import type { Graph } from "./graph";
import { Chip, useFeed } from "./hooks";
import { linksOf, lostBy, rate, short, shownCounters, size, toneOfNode, whole } from "./model";
import type { Feed } from "./feed";
import type { Selected } from "./view";

export function NodesPane(props: { feed: Feed; graph: Graph; onSelect: (selected: Selected) => void }) {
  useFeed(props.feed, "state");
  const nodes = props.feed.state?.nodes ?? [];
  const links = linksOf(props.feed.state, props.graph);
  const counters = shownCounters(nodes);
  // A runtime with several operators is a frame in the graph; its first operator stands for it.
  const boxOf = (id: string) =>
    props.graph.boxes.find((box) => box.id === id)?.id ?? props.graph.boxes.find((box) => box.id.startsWith(`${id}/`))?.id;
  const select = (node: string) => {
    const id = boxOf(node);
    if (id) props.onSelect({ kind: "box", id });
  };
  return (
    <section class="pane side nodes" aria-label="Nodes">
      <h2>Nodes</h2>
      <table>
        <thead>
          <tr>
            {["Node", "Status", "CPU", "Memory", "Sends", "Dropped"].map((name) => <th key={name} scope="col" class={name === "Sends" ? "rate" : ""}>{name}</th>)}
            {["Waiting", ...counters.map(({ label }) => label)].map((name) => <th key={name} scope="col" class="spare">{name}</th>)}
          </tr>
        </thead>
        <tbody>
          {nodes.map((node) => (
            <tr key={node.id}>
              <th scope="row"><button class="link" onClick={() => select(node.id)}>{node.id}</button></th>
              <td><Chip tone={toneOfNode(node)}>{node.status}</Chip></td>
              <td>{node.cpu === null ? "–" : `${node.cpu.toFixed(0)} %`}</td>
              <td>{node.memory === null ? "–" : size(node.memory)}</td>
              <td class="rate">{rate(node.sent_hz)}</td>
              <td class={lostBy(node, props.graph, links) ? "bad" : ""}>{short(node.dropped)}</td>
              <td class="spare">{whole(node.waiting)}</td>
              {counters.map(({ label, isAmber, of }) => <td key={label} class={isAmber && of(node) ? "spare warn" : "spare"}>{whole(of(node))}</td>)}
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}
