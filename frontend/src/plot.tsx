// Curves: numbers over time, and arrays over their index.

import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";

const COLOURS = ["#3b82f6", "#f97316", "#22c55e", "#d946ef", "#eab308", "#06b6d4", "#ef4444", "#84cc16"];

/** Return the size of a plot that fills an element, without its legend. */
function roomIn(place: HTMLElement, legend = 0): { width: number; height: number } {
  return { width: place.clientWidth || 300, height: Math.max(60, place.clientHeight - legend) };
}

/** Draw curves: the first of `data` is for the axis, each other one is a curve. */
export function Plot(props: { data: (number | null)[][]; names: string[]; time: boolean }) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const names = props.names.join("\n");

  useEffect(() => {
    const ink = getComputedStyle(place.current!).color;
    const axis = { stroke: ink, grid: { stroke: "#8884", width: 1 }, ticks: { stroke: "#8884", width: 1 }, font: "11px system-ui" };
    const made = new uPlot(
      {
        ...roomIn(place.current!),
        scales: { x: { time: props.time } },
        axes: [{ ...axis, size: 26 }, { ...axis, size: 52 }],
        cursor: { drag: { x: false, y: false } },
        legend: { show: props.names.length > 1, live: false },
        series: [
          props.time ? { value: "{HH}:{mm}:{ss}" } : {},
          ...props.names.map((label, index) => ({
            label,
            stroke: COLOURS[index % COLOURS.length],
            width: 1.5,
            points: { show: props.time ? undefined : false },
          })),
        ],
      },
      props.data as uPlot.AlignedData,
      place.current!,
    );
    plot.current = made;
    const fill = () => made.setSize(roomIn(place.current!, made.root.querySelector<HTMLElement>(".u-legend")?.offsetHeight));
    fill();
    const watch = new ResizeObserver(fill);
    watch.observe(place.current!);
    return () => {
      watch.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [names, props.time]);

  useEffect(() => plot.current?.setData(props.data as uPlot.AlignedData), [props.data]);
  return <div class="plot" ref={place} />;
}
