// The last minute: rates, latencies, drops and CPU over time, of the whole dataflow or of what is selected.

import type { ComponentChildren } from "preact";
import { ends, type Graph } from "./graph";
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { useFeed, useNarrow } from "./hooks";
import { linkName, milliseconds, nodeOf, rate } from "./model";
import type { Past } from "./past";
import { COLOURS, Plot } from "./plot";
import { type Feed, MINUTE, type Sample } from "./feed";
import type { Selected } from "./view";

// The legend of a chart takes little of it, so that most of it is curves.
const SHARE = 0.36;
const LINE = 15; // pixels, the height of a line of the legend
const COLUMN = 150; // pixels: a name and a figure
const GAP = 14; // pixels between two charts
const HIGH = 190; // pixels of a chart on a phone; all as in dashboard.css

interface Curve {
  name: string;
  title: string;
  colour: number; // the index of the preferred one
  values: (number | null)[];
}

export function MinutePane(props: { feed: Feed; graph: Graph; selected: Selected; latency: boolean; onLatency: (on: boolean) => void }) {
  const { feed, graph, selected } = props;
  useFeed(feed, "samples");
  const { history } = feed;
  const pane = useRef<HTMLElement>(null);
  const legend = useLegend(pane, useNarrow());
  const boxes = new Map(graph.boxes.map((box) => [box.id, box]));
  const box = selected?.kind === "box" ? boxes.get(selected.id) : undefined;
  const edges = graph.edges.filter((edge) => (selected?.kind === "edge" ? edge === selected.edge : !selected || edge.source === selected.id || edge.target === selected.id));
  const links = (figure: 0 | 1 | 2): Curve[] =>
    edges.map((edge) => {
      const name = linkName(edge, boxes);
      return {
        name: ends(edge)[1], // an input has one source
        title: ends(edge).join(" → "),
        colour: graph.edges.indexOf(edge),
        values: history.map((sample) => (name ? (sample.links[name]?.[figure] ?? null) : null)),
      };
    });
  const ids = [...new Set(history.flatMap(({ cpu }) => Object.keys(cpu)))];
  const cpu = ids
    .map((id, index): Curve => ({ name: id, title: id, colour: index, values: history.map((sample) => sample.cpu[id] ?? null) }))
    .filter(({ name }) => !box || name === nodeOf(box));
  const latency = links(1);
  return (
    <section class="pane minute" id="minute" aria-label="Last minute" ref={pane}>
      <Chart title="Rates" legend={legend} history={history} curves={links(0)} unit={rate} empty="no link" />
      <Chart
        title="Latencies"
        legend={legend}
        history={history}
        curves={latency}
        unit={milliseconds}
        empty={feed.isPast ? "not recorded" : props.latency ? "nothing measured yet" : <button class="button" onClick={() => props.onLatency(true)}>Measure</button>}
      />
      <Chart title="Drops" legend={legend} history={history} curves={links(2)} unit={rate} empty={feed.isPast && !(feed as Past).about.has_state ? "not recorded" : "none"} positive />
      <Chart title="CPU" legend={legend} history={history} curves={cpu} unit={(value) => `${value.toFixed(0)} %`} empty={feed.isPast ? "not recorded" : "no process"} />
    </section>
  );
}

interface Legend {
  columns: number;
  lines: number;
}

/** Return the size of the legend of a chart, for which all charts have the same room. */
function useLegend(pane: { current: HTMLElement | null }, narrow: boolean): Legend {
  const [legend, setLegend] = useState<Legend>({ columns: 1, lines: 4 });
  useLayoutEffect(() => {
    const watch = new ResizeObserver(() => {
      const { clientWidth, clientHeight } = pane.current!;
      const [width, height] = narrow ? [clientWidth, HIGH] : [clientWidth / 4 - GAP, clientHeight - 12];
      if (clientWidth > 0) setLegend({ columns: width >= 2 * COLUMN ? 2 : 1, lines: Math.max(2, Math.floor((SHARE * height) / LINE)) });
    });
    watch.observe(pane.current!);
    return () => watch.disconnect();
  }, [narrow]);
  return legend;
}

function Chart(props: {
  title: string;
  legend: Legend;
  history: Sample[];
  curves: Curve[];
  unit: (value: number) => string;
  empty: ComponentChildren;
  positive?: boolean; // curves that are always zero are left out
}) {
  const [pointed, setPointed] = useState<number | null>(null); // the sample under the pointer, in any of the charts
  const greatest = (curve: Curve) => Math.max(-1, ...curve.values.map((value) => value ?? -1));
  const all = props.curves.filter((curve) => greatest(curve) > (props.positive ? 0 : -1));
  const room = props.legend.lines * props.legend.columns;
  const most = new Set([...all].sort((a, b) => greatest(b) - greatest(a)).slice(0, room));
  const curves = all.filter((curve) => most.has(curve)); // in an order that stays
  const colours = distinctColours(curves);
  const { history } = props;
  const last = history[history.length - 1]?.at ?? 0;
  const seconds = Math.round((last - (history[0]?.at ?? 0)) / 1000);
  const shown = pointed === null || pointed >= history.length ? history.length - 1 : pointed;
  const ago = shown < history.length - 1 ? `−${Math.round((last - history[shown]!.at) / 1000)} s` : "";
  const data = [history.map(({ at }) => at / 1000), ...curves.map(({ values }) => values)];
  return (
    <figure class={curves.length ? "chart" : "chart empty"} data-chart={props.title} aria-label={`${props.title} of the last ${seconds} s`}>
      <figcaption>
        {props.title} <span class="quiet">{[all.length > room && `${room} of ${all.length}`, ago].filter(Boolean).join(" · ")}</span>
      </figcaption>
      {curves.length === 0 && <p class="quiet">{props.empty}</p>}
      {curves.length > 0 && (
        <>
          <Plot data={data} names={curves.map(({ name }) => name)} colours={colours} time window={MINUTE} onPoint={setPointed} />
          <ul style={{ gridTemplateColumns: `repeat(${props.legend.columns}, minmax(0, 1fr))` }}>
            {curves.map(({ name, title, values }, index) => {
              const value = values[shown];
              return (
                <li key={name} title={title}>
                  <i style={{ background: colours[index] }} />
                  <span>{name}</span>
                  <b>{value === null || value === undefined ? "–" : props.unit(value)}</b>
                </li>
              );
            })}
          </ul>
        </>
      )}
    </figure>
  );
}

/** Return a colour for each of a few curves: the preferred one, or the next that is free. */
function distinctColours(curves: Curve[]): string[] {
  const taken = new Set<number>();
  return curves.map(({ colour }) => {
    let index = colour % COLOURS.length;
    while (taken.has(index)) index = (index + 1) % COLOURS.length;
    taken.add(index);
    return COLOURS[index]!;
  });
}
