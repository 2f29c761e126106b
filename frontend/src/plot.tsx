// Curves: numbers over time, and arrays over their index.

import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";

export const COLOURS = ["#3b82f6", "#f97316", "#22c55e", "#d946ef", "#eab308", "#06b6d4", "#ef4444", "#84cc16"];

/** Return the size of a plot that fills an element. */
function roomIn(place: HTMLElement): { width: number; height: number } {
  return { width: place.clientWidth || 300, height: Math.max(60, place.clientHeight) };
}

/** Draw curves: the first of `data` is for the axis, each other one is a curve. `window`: the last seconds, from zero upward; `onPoint` hears which value is pointed at, here or in another such plot. */
export function Plot(props: { data: (number | null)[][]; names: string[]; time: boolean; colours?: string[]; window?: number; onPoint?: (index: number | null) => void }) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const names = props.names.join("\n");
  const { window } = props;

  useEffect(() => {
    const ink = getComputedStyle(place.current!).color;
    const axis = { stroke: ink, grid: { stroke: "#8884", width: 1 }, ticks: { stroke: "#8884", width: 1 }, font: "11px system-ui" };
    const tight = { gap: 2, ticks: { ...axis.ticks, size: 3 } };
    const made = new uPlot(
      {
        ...roomIn(place.current!),
        scales: window
          ? { x: { time: true, range: (_, __, last) => [last - window, last] }, y: { range: (_, __, most) => [0, most > 0 ? most * 1.1 : 1] } }
          : { x: { time: props.time } },
        axes: window
          ? [{ ...axis, ...tight, size: 20, splits: (_, __, first, last) => [first, (first + last) / 2, last], values: () => [`−${window} s`, `−${window / 2} s`, "now"], align: 1 }, { ...axis, ...tight, size: 36, space: 24 }]
          : [{ ...axis, size: 26 }, { ...axis, size: 52 }],
        cursor: { drag: { x: false, y: false }, ...(window ? { sync: { key: "window" }, y: false } : {}) },
        hooks: { setCursor: [({ cursor }) => props.onPoint?.(cursor.idx ?? null)] },
        ...(window ? { padding: [4, 26, 0, 0] as uPlot.Padding } : {}),
        legend: { show: false }, // the names are with the figures, above or below the plot
        series: [
          props.time ? { value: "{HH}:{mm}:{ss}" } : {},
          ...props.names.map((label, index) => ({
            label,
            stroke: props.colours?.[index] ?? COLOURS[index % COLOURS.length],
            width: 1.5,
            points: { show: props.time && !window ? undefined : false },
          })),
        ],
      },
      props.data as uPlot.AlignedData,
      place.current!,
    );
    plot.current = made;
    const fill = () => place.current && made.setSize(roomIn(place.current));
    fill();
    const watch = new ResizeObserver(fill);
    watch.observe(place.current!);
    return () => {
      watch.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [names, props.time, props.colours?.join()]);

  useEffect(() => plot.current?.setData(props.data as uPlot.AlignedData), [props.data]);
  return <div class="plot" ref={place} />;
}
