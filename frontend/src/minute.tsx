// The last minute: rates, latencies, drops and CPU over time, of the whole dataflow or of what is selected.

import type { ComponentChildren } from "preact";
import { ends, type Graph } from "./graph";
import { useLive } from "./hooks";
import { linkName, milliseconds, nodeOf, rate, short } from "./model";
import { COLOURS, Plot } from "./plot";
import { type Live, MINUTE, type Sample } from "./server";
import type { Selected } from "./view";

const MOST = 6; // curves in a chart: those with the greatest values

interface Curve {
  name: string;
  title: string;
  colour: string;
  values: (number | null)[];
}

export function MinutePane(props: { live: Live; graph: Graph; selected: Selected; latency: boolean; onLatency: (on: boolean) => void }) {
  const { live, graph, selected } = props;
  useLive(live, "samples");
  const { history } = live;
  const boxes = new Map(graph.boxes.map((box) => [box.id, box]));
  const box = selected?.kind === "box" ? boxes.get(selected.id) : undefined;
  const edges = graph.edges.filter((edge) => (selected?.kind === "edge" ? edge === selected.edge : !selected || edge.source === selected.id || edge.target === selected.id));
  const links = (figure: 0 | 1 | 2): Curve[] =>
    edges.map((edge) => {
      const name = linkName(edge, boxes);
      return {
        name: ends(edge)[1], // an input has one source
        title: ends(edge).join(" → "),
        colour: colourOf(graph.edges.indexOf(edge)),
        values: history.map((sample) => (name ? (sample.links[name]?.[figure] ?? null) : null)),
      };
    });
  const ids = [...new Set(history.flatMap(({ cpu }) => Object.keys(cpu)))];
  const cpu = ids
    .map((id, index): Curve => ({ name: id, title: id, colour: colourOf(index), values: history.map((sample) => sample.cpu[id] ?? null) }))
    .filter(({ name }) => !box || name === nodeOf(box));
  const latency = links(1);
  const measured = latency.some(({ values }) => values.some((value) => value !== null));
  return (
    <section class="pane minute" id="minute" aria-label="Last minute">
      <Chart title="Rates" history={history} curves={links(0)} unit={rate} empty="no link" />
      <Chart
        title="Latencies"
        history={history}
        curves={latency}
        unit={milliseconds}
        empty={props.latency && !measured ? "nothing measured yet" : <button class="link" onClick={() => props.onLatency(true)}>Measure</button>}
      />
      <Chart title="Drops" history={history} curves={links(2)} unit={(value) => `${short(value)}/s`} empty="none" positive />
      <Chart title="CPU" history={history} curves={cpu} unit={(value) => `${value.toFixed(0)} %`} empty="no process" />
    </section>
  );
}

function Chart(props: {
  title: string;
  history: Sample[];
  curves: Curve[];
  unit: (value: number) => string;
  empty: ComponentChildren;
  positive?: boolean; // curves that are always zero are left out
}) {
  const greatest = (curve: Curve) => Math.max(-1, ...curve.values.map((value) => value ?? -1));
  const curves = props.curves
    .filter((curve) => greatest(curve) > (props.positive ? 0 : -1))
    .sort((a, b) => greatest(b) - greatest(a))
    .slice(0, MOST);
  const seconds = props.history.length ? Math.round((props.history[props.history.length - 1]!.at - props.history[0]!.at) / 1000) : 0;
  const data = [props.history.map(({ at }) => at / 1000), ...curves.map(({ values }) => values)];
  return (
    <figure class="chart" data-chart={props.title} aria-label={`${props.title} of the last ${seconds} s`}>
      <figcaption>{props.title} <span class="quiet">{curves.length === 0 && props.empty}</span></figcaption>
      {curves.length > 0 && (
        <>
          <Plot data={data} names={curves.map(({ name }) => name)} colours={curves.map(({ colour }) => colour)} time window={MINUTE} />
          <ul>
            {curves.map(({ name, title, colour, values }) => {
              const last = values[values.length - 1];
              return (
                <li key={name} title={title}>
                  <i style={{ background: colour }} />
                  <span>{name}</span>
                  <b>{last === null || last === undefined ? "–" : props.unit(last)}</b>
                </li>
              );
            })}
          </ul>
        </>
      )}
    </figure>
  );
}

function colourOf(index: number): string {
  return COLOURS[index % COLOURS.length]!;
}
