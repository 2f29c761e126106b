// Curves: numbers over time, and arrays over their index.

import { useEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import type { Past } from "./past";

export const COLOURS = ["#3b82f6", "#f97316", "#22c55e", "#d946ef", "#eab308", "#06b6d4", "#ef4444", "#84cc16"];

/** Return the size of a plot that fills an element. */
function roomIn(place: HTMLElement): { width: number; height: number } {
  return { width: place.clientWidth || 300, height: Math.max(60, place.clientHeight) };
}

/**
 * Draw curves: the first of `data` is for the axis, each other one is a curve. `window`: the last seconds, from zero upward; `onPoint` hears
 * which value is pointed at, here or in another such plot. Others zoom: drag across a part, turn the wheel, drag with Shift to pan, and
 * click twice to see all. With `past`, the axis is the one of the time below the page, and a click goes to its moment.
 */
export function Plot(props: { data: (number | null)[][]; names: string[]; time: boolean; colours?: string[]; window?: number; onPoint?: (index: number | null) => void; past?: Past | null }) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const names = props.names.join("\n");
  const { window, past } = props;
  const zoomed = useRef<[number, number] | null>(null); // what a user has chosen to see
  const [isZoomed, setIsZoomed] = useState(false);
  const zoomTo = (range: [number, number] | null) => {
    const made = plot.current;
    if (past) {
      const { playhead, about } = past;
      if (range) playhead.show(range[0] * 1e9 - about.first * 1e6, range[1] * 1e9 - about.first * 1e6);
      else playhead.show(0, playhead.length);
    } else {
      zoomed.current = range;
      setIsZoomed(range !== null);
      made?.setData(made.data);
    }
  };
  const rangeOf = (): [number, number] | null => {
    if (!past) return zoomed.current;
    const { playhead, about } = past;
    return [about.first / 1e3 + playhead.from / 1e9, about.first / 1e3 + playhead.until / 1e9];
  };

  useEffect(() => {
    const ink = getComputedStyle(place.current!).color;
    const axis = { stroke: ink, grid: { stroke: "#8884", width: 1 }, ticks: { stroke: "#8884", width: 1 }, font: "11px system-ui" };
    const tight = { gap: 2, ticks: { ...axis.ticks, size: 3 } };
    const made = new uPlot(
      {
        ...roomIn(place.current!),
        scales: window
          ? { x: { time: true, range: (_, __, last) => [last - window, last] }, y: { range: (_, __, most) => [0, most > 0 ? most * 1.1 : 1] } }
          : { x: { time: props.time, range: (_, least, most) => rangeOf() ?? (least === most ? [least - 1, most + 1] : [least, most]) } },
        axes: window
          ? [{ ...axis, ...tight, size: 20, splits: (_, __, first, last) => [first, (first + last) / 2, last], values: () => [`−${window} s`, `−${window / 2} s`, "now"], align: 1 }, { ...axis, ...tight, size: 36, space: 24 }]
          : [{ ...axis, size: 26 }, { ...axis, size: 52 }],
        cursor: window ? { drag: { x: false, y: false }, sync: { key: "window" }, y: false } : { drag: { x: true, y: false, dist: 8, setScale: false }, bind: { dblclick: () => () => (zoomTo(null), null) } },
        hooks: {
          setCursor: [({ cursor }) => props.onPoint?.(cursor.idx ?? null)],
          setSelect: [
            (self) => {
              const { left, width } = self.select;
              if (width > 0) zoomTo([self.posToVal(left, "x"), self.posToVal(left + width, "x")]);
              self.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
            },
          ],
          draw: [(self) => past && drawMoment(self, past)],
        },
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
    const off = past?.playhead.on(() => made.setData(made.data));
    const over = made.over;
    const zoomBy = (factor: number, around: number) => {
      const { min, max } = made.scales.x!;
      if (min !== undefined && max !== undefined && min !== null && max !== null) zoomTo([around - (around - min) * factor, around + (max - around) * factor]);
    };
    const onWheel = (event: WheelEvent) => {
      event.preventDefault();
      zoomBy(1.2 ** Math.sign(event.deltaY), made.posToVal(event.offsetX, "x"));
    };
    let pans = false;
    let pressed = 0;
    const onDown = (event: MouseEvent) => {
      pressed = event.clientX;
      pans = event.shiftKey || event.button === 1;
      if (pans) event.stopImmediatePropagation();
    };
    const onMove = (event: MouseEvent) => {
      if (!pans || !event.buttons) return;
      const { min, max } = made.scales.x!;
      const by = made.posToVal(0, "x") - made.posToVal(event.movementX, "x");
      if (min !== undefined && max !== undefined && min !== null && max !== null) zoomTo([min + by, max + by]);
    };
    const onUp = (event: MouseEvent) => {
      if (past && !pans && Math.abs(event.clientX - pressed) < 5) past.playhead.seek(made.posToVal(event.offsetX, "x") * 1e9 - past.about.first * 1e6);
      pans = false;
    };
    if (!window) {
      over.addEventListener("wheel", onWheel, { passive: false });
      over.addEventListener("mousedown", onDown, { capture: true });
      over.addEventListener("mousemove", onMove);
      over.addEventListener("mouseup", onUp);
    }
    const fill = () => place.current && made.setSize(roomIn(place.current));
    fill();
    const watch = new ResizeObserver(fill);
    watch.observe(place.current!);
    return () => {
      watch.disconnect();
      off?.();
      made.destroy();
      plot.current = null;
    };
  }, [names, props.time, props.colours?.join(), past]);

  useEffect(() => plot.current?.setData(props.data as uPlot.AlignedData), [props.data]);
  const onKeyDown = (event: KeyboardEvent) => {
    const { min, max } = plot.current?.scales.x ?? {};
    if (min === undefined || max === undefined || min === null || max === null) return;
    const middle = (min + max) / 2;
    const half = (max - min) / 2;
    const range = ({ "+": [middle - half / 1.5, middle + half / 1.5], "-": [middle - half * 1.5, middle + half * 1.5], ArrowLeft: [min - half / 4, max - half / 4], ArrowRight: [min + half / 4, max + half / 4] } as Record<string, [number, number]>)[event.key];
    if (!range && event.key !== "0") return;
    event.preventDefault();
    zoomTo(range ?? null);
  };
  if (window) return <div class="plot" ref={place} />;
  return (
    <div class="zoomable">
      <div class="plot" ref={place} tabIndex={0} role="img" aria-label="Curves; + and - zoom, arrow keys pan, 0 shows all" onKeyDown={onKeyDown} />
      {isZoomed && <button class="button all" onClick={() => zoomTo(null)}>All</button>}
    </div>
  );
}

/** Draw the moment that the page shows as a line over the curves. */
function drawMoment(self: uPlot, past: Past): void {
  const x = self.valToPos(past.about.first / 1e3 + past.at / 1e9, "x", true);
  const { left, top, width, height } = self.bbox;
  if (x < left || x > left + width) return;
  self.ctx.save();
  self.ctx.strokeStyle = "#ef4444";
  self.ctx.lineWidth = 1.5 * devicePixelRatio;
  self.ctx.beginPath();
  self.ctx.moveTo(x, top);
  self.ctx.lineTo(x, top + height);
  self.ctx.stroke();
  self.ctx.restore();
}
