// What a topic carries, as it comes.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { useFeed } from "./hooks";
import { asText, rounded, size, whole } from "./model";
import type { Past } from "./past";
import { COLOURS, Plot } from "./plot";
import { framesOf, Scene, type SceneContent } from "./scene";
import type { Feed, Head, Preview } from "./feed";

/** Draw what a topic carries. `backdrops`: topics that may be the image which boxes belong to, the most likely first. */
export function PreviewBody(props: { feed: Feed; topic: string; backdrops: string[]; preview: Preview }) {
  const { head, body } = props.preview;
  switch (head.kind) {
    case "image":
      return <Picture feed={props.feed} preview={props.preview} boxes={[]} />;
    case "boxes":
      return <Boxes {...props} />;
    case "points":
      return <Points head={head} body={body} />;
    case "transforms":
      return <Transforms head={head} />;
    case "series":
      return <Series feed={props.feed} topic={props.topic} head={head} />;
    case "curve":
      return <Curve head={head} />;
    case "table":
      return <Table columns={head.columns} rows={head.rows} total={head.length} />;
    case "text":
      return <pre class="text">{head.texts.join("\n")}</pre>;
    case "problem":
      return <p class="bad">{head.problem}</p>;
  }
  return <pre class="text">{head.values.map((value) => asText(value)).join("\n")}</pre>;
}

export function PreviewFacts({ head }: { head: Head }) {
  const pixels = head.width ? `${head.width} × ${head.height}` : "";
  const what = [shortened(head.type), pixels || (head.length === 1 ? "" : `${whole(head.length)} values`), size(head.bytes)];
  return (
    <details class="facts">
      <summary>
        {[head.number > 0 && `№ ${whole(head.number)}`, ...what].filter(Boolean).join(" · ")}
      </summary>
      <dl>
        {Object.entries(head.metadata).map(([key, value]) => (
          <div key={key}>
            <dt>{key}</dt>
            <dd>{asText(value)}</dd>
          </div>
        ))}
      </dl>
    </details>
  );
}

function shortened(type: string): string {
  return type.length > 40 ? `${type.slice(0, 38)}…` : type;
}

type Box = Head["boxes"][number];

function Points({ head, body }: { head: Head; body: ArrayBuffer }) {
  const content = useMemo((): SceneContent => ({ points: new Float32Array(body), isLine: head.line, cubes: head.cubes }), [head, body]);
  return <Scene content={content} label={head.line ? "Line" : head.cubes ? "Boxes in space" : "Point cloud"} />;
}

function Transforms({ head }: { head: Head }) {
  const content = useMemo((): SceneContent => ({ frames: framesOf(head.transforms) }), [head]);
  return <Scene content={content} label="Transforms" />;
}

/** The pixel of an image under the pointer, and what is known of its values. */
interface Pointed {
  x: number;
  y: number;
  text: string;
}

/** Return the pixel of an image under the pointer; null beside the image, which keeps its aspect. */
function pixelAt(canvas: HTMLCanvasElement, event: PointerEvent, head: Head): { x: number; y: number; left: number; top: number } | null {
  const area = canvas.getBoundingClientRect();
  const scale = Math.min(area.width / canvas.width, area.height / canvas.height);
  const left = (event.clientX - area.left - (area.width - canvas.width * scale) / 2) / scale;
  const top = (event.clientY - area.top - (area.height - canvas.height * scale) / 2) / scale;
  if (left < 0 || top < 0 || left >= canvas.width || top >= canvas.height) return null;
  const [width, height] = [head.width || canvas.width, head.height || canvas.height];
  return { x: Math.floor((left / canvas.width) * width), y: Math.floor((top / canvas.height) * height), left: Math.floor(left), top: Math.floor(top) };
}

function Picture(props: { feed: Feed; preview: Preview; boxes: Box[]; own?: boolean }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const [pointed, setPointed] = useState<Pointed | null>(null);
  const asked = useRef(0);
  const plain = useRef<ImageData | null>(null); // without boxes
  const { feed, preview: { head } } = props;

  const point = (event: PointerEvent) => {
    const found = pixelAt(canvas.current!, event, head);
    if (!found) return setPointed(null);
    const { x, y, left, top } = found;
    const image = plain.current;
    const index = 4 * (top * (image?.width ?? 0) + left);
    // A preview is compressed; a recording has the exact values, which come a little later.
    setPointed({ x, y, text: image ? `≈ RGB ${[...image.data.slice(index, index + 3)].join(" ")}` : "" });
    if (!feed.isPast) return;
    const turn = ++asked.current;
    void (feed as Past).pixel(head.topic, x, y).then(({ text }) => text && turn === asked.current && setPointed({ x, y, text }), () => {});
  };
  const [problem, setProblem] = useState("");
  useEffect(() => {
    let wanted = true;
    void bitmap(props.preview).then(
      (image) => {
        if (!wanted || !canvas.current) return;
        setProblem("");
        plain.current = paint(canvas.current, image, props.preview.head, props.boxes);
        canvas.current.dataset.own = String(props.own); // whether the boxes belong to what is drawn now
      },
      () => setProblem("This browser cannot decode the image."),
    );
    return () => {
      wanted = false;
    };
  }, [props.preview, props.boxes]);
  if (problem) return <p class="bad">{problem}</p>;
  const leave = () => {
    asked.current += 1;
    setPointed(null);
  };
  return (
    <>
      <canvas ref={canvas} class="picture" role="img" aria-label={`image ${head.topic}`} onPointerMove={point} onPointerLeave={leave} />
      {pointed && <p class="pixel">{pointed.x}, {pointed.y}{pointed.text && ` · ${pointed.text}`}</p>}
    </>
  );
}

async function bitmap({ head, body }: Preview): Promise<ImageBitmap> {
  if (head.media_type !== "rgb") return createImageBitmap(new Blob([body], { type: head.media_type }));
  const [width, height] = head.shown;
  const image = new ImageData(width, height);
  const from = new Uint8Array(body);
  for (let pixel = 0; pixel < width * height; pixel++) {
    image.data.set(from.subarray(3 * pixel, 3 * pixel + 3), 4 * pixel);
    image.data[4 * pixel + 3] = 255;
  }
  return createImageBitmap(image);
}

const LEAST_WIDTH = 400; // pixels of a canvas with boxes

/** Draw an image and boxes; return its pixels without the boxes. */
function paint(canvas: HTMLCanvasElement, image: ImageBitmap, head: Head, boxes: Box[]): ImageData {
  // A small image gets more pixels, so that the names of boxes can be read on it.
  const enlarged = boxes.length ? Math.max(1, Math.ceil(LEAST_WIDTH / image.width)) : 1;
  const [width, height] = [image.width * enlarged, image.height * enlarged];
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  const context = canvas.getContext("2d", { willReadFrequently: true })!;
  context.imageSmoothingEnabled = false;
  context.drawImage(image, 0, 0, width, height);
  const plain = context.getImageData(0, 0, canvas.width, canvas.height);
  drawBoxes(context, boxes, width / (head.width || image.width));
  image.close();
  return plain;
}

// Light enough for dark letters on them, and far apart on any picture.
const CLASS_COLOURS = ["#4ade80", "#fb923c", "#38bdf8", "#f472b6", "#facc15", "#a78bfa", "#2dd4bf", "#f87171", "#a3e635", "#e879f9", "#93c5fd", "#fdba74"];
const coloured = new Map<string, number>(); // class → index of its colour, the same in all previews

/** Return the colour of a class: by its name, so that it stays, or the next one that no other class has. */
export function colourOf(name: string): string {
  let index = coloured.get(name);
  if (index === undefined) {
    index = [...name].reduce((hash, letter) => (hash * 31 + letter.codePointAt(0)!) % 65521, 0) % CLASS_COLOURS.length;
    const taken = new Set(coloured.values());
    for (let tries = 0; taken.has(index) && tries < CLASS_COLOURS.length; tries++) index = (index + 1) % CLASS_COLOURS.length;
    coloured.set(name, index);
  }
  return CLASS_COLOURS[index]!;
}

/** Return black or white, which is read better on a colour like "#ff8800". */
function inkOn(colour: string): string {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return 0.299 * red! + 0.587 * green! + 0.114 * blue! > 110 ? "#0b1220" : "#ffffff";
}

function drawBoxes(context: CanvasRenderingContext2D, boxes: Box[], scale: number): void {
  const unit = Math.max(1, context.canvas.width / 400);
  context.lineWidth = 2 * unit;
  context.font = `600 ${11 * unit}px system-ui`;
  context.textBaseline = "bottom";
  // All boxes first, so that none is drawn over the words of another.
  const drawn = boxes.map(([x, y, width, height, label, name, own]) => {
    const colour = own || colourOf(name);
    context.strokeStyle = colour;
    context.strokeRect(x * scale, y * scale, width * scale, height * scale);
    return { label, colour, left: x * scale - unit, above: y * scale, below: (y + height) * scale };
  });
  const line = 15 * unit;
  const words: { left: number; right: number; bottom: number }[] = [];
  for (const { label, colour, left, above, below } of drawn) {
    if (!label) continue;
    const room = context.measureText(label).width + 8 * unit;
    const begin = Math.max(0, Math.min(left, context.canvas.width - room));
    // Above the box, or below it if other words are there.
    const isFree = (bottom: number) => !words.some((other) => begin < other.right && other.left < begin + room && Math.abs(bottom - other.bottom) < line);
    const places = [Math.max(above, line), Math.min(below + line, context.canvas.height)];
    const bottom = places.find(isFree) ?? places[0]!;
    words.push({ left: begin, right: begin + room, bottom });
    context.fillStyle = colour;
    context.fillRect(begin, bottom - line, room, line);
    context.fillStyle = inkOn(colour);
    context.fillText(label, begin + 4 * unit, bottom - unit);
  }
}

const PATIENCE = 1_500_000; // microseconds that boxes with a frame of their own stay, while newer ones have none

/** Return boxes and the frame with their time stamp; without one, the newest boxes and the last frame before them. */
export function matched(boxes: Preview[], frames: Preview[]): { boxes?: Preview; frame?: Preview; own: boolean } {
  const newest = boxes[boxes.length - 1];
  if (!newest) return { own: false };
  const byStamp = new Map(frames.map((frame) => [frame.head.stamp, frame]));
  for (const candidate of [...boxes].reverse()) {
    if (newest.head.stamp - candidate.head.stamp > PATIENCE) break;
    const frame = byStamp.get(candidate.head.stamp);
    if (frame) return { boxes: candidate, frame, own: true };
  }
  const before = frames.filter((frame) => frame.head.stamp <= newest.head.stamp);
  return { boxes: newest, frame: before[before.length - 1] ?? frames[0], own: false };
}

function Boxes(props: { feed: Feed; topic: string; backdrops: string[]; preview: Preview }) {
  const { feed, backdrops } = props;
  const [chosen, setChosen] = useState(backdrops[0] ?? "");
  const [isChosen, setIsChosen] = useState(false); // by the user
  useEffect(() => {
    if (!chosen && !isChosen && backdrops[0]) setChosen(backdrops[0]); // an image that became known later
  }, [backdrops[0]]);
  useEffect(() => (chosen ? feed.look(chosen) : undefined), [feed, chosen]);
  useEffect(() => {
    if (feed.isPast) (feed as Past).drawOver(props.topic, chosen);
  }, [feed, props.topic, chosen]);
  useFeed(feed, `preview ${chosen}`);
  const behind = feed.previews.get(chosen);
  const { boxes, frame, own } = matched(feed.recent.get(props.topic) ?? [], feed.recent.get(chosen) ?? []);
  // What turns out not to be an image cannot be behind boxes: try the next one.
  useEffect(() => {
    if (behind && behind.head.kind !== "image") setChosen(backdrops[backdrops.indexOf(chosen) + 1] ?? "");
  }, [behind?.head.kind, chosen]);
  return (
    <>
      {boxes && frame ? <Picture feed={feed} preview={frame} boxes={boxes.head.boxes} own={own} /> : <Plain boxes={props.preview.head.boxes} />}
      {backdrops.length > 0 && (
        <label class="quiet over" title={own ? "the frame with the time stamp of the boxes" : "the last frame before the boxes: they do not carry the time stamp of a frame that was shown"}>
          over{" "}
          <select value={chosen} onChange={(event) => { setIsChosen(true); setChosen(event.currentTarget.value); }}>
            {backdrops.map((topic) => (
              <option key={topic} value={topic}>{topic}</option>
            ))}
            <option value="">nothing</option>
          </select>
        </label>
      )}
    </>
  );
}

function Plain({ boxes }: { boxes: Box[] }) {
  const rows = boxes.map(([x, y, width, height, label]) => [label, x, y, width, height].map((cell) => (typeof cell === "number" ? Math.round(cell * 10) / 10 : cell)));
  return <Table columns={["label", "x", "y", "width", "height"]} rows={rows} total={boxes.length} isFlat />;
}

function Series(props: { feed: Feed; topic: string; head: Head }) {
  const { feed, topic, head } = props;
  const past = feed.isPast ? (feed as Past) : null;
  const [inSpace, setInSpace] = useState(false);
  const steps = past ? past.curveOf(topic) : (feed.steps.get(topic) ?? []);
  // Of a recording, the newest values are those of the moment, wherever the curve ends.
  const last = past ? (head.values as (number | null)[]) : (steps[steps.length - 1]?.[1] ?? []);
  const count = last.length;
  const data = useMemo(() => {
    const fitting = steps.filter(([, values]) => values.length === count);
    const time = fitting.map(([at]) => at / 1000);
    return [time, ...Array.from({ length: count }, (_, index) => fitting.map(([, values]) => values[index] ?? null))];
  }, [steps, steps.length, count]);
  const names = Array.from({ length: count }, (_, index) => head.names[index] ?? (count > 1 ? `[${index}]` : "value"));
  const scene = useMemo((): SceneContent => {
    const [x, y, z, qx, qy, qz, qw] = head.pose ?? [];
    const trail = (feed.steps.get(topic) ?? []).flatMap(([, , pose]) => (pose ? [pose.slice(0, 3) as [number, number, number]] : []));
    const curve = steps.flatMap(([, , pose]) => (pose ? [pose.slice(0, 3) as [number, number, number]] : []));
    return { frames: [{ name: topic.split("/").pop()!, place: [x!, y!, z!], turn: [qx!, qy!, qz!, qw!] }], trail: past ? curve : trail };
  }, [head, steps.length]);
  return (
    <>
      <p class="numbers">
        {last.map((value, index) => (
          <span key={index} title={names[index]}>
            {count > 1 && <i style={{ background: COLOURS[index % COLOURS.length] }} />}
            {head.names[index] && <><small class="quiet">{head.names[index]}</small> </>}{value === null ? "NaN" : rounded(value)}
          </span>
        ))}
        {head.pose && <button class="link" aria-pressed={inSpace} onClick={() => setInSpace(!inSpace)}>{inSpace ? "Curves" : "3D"}</button>}
      </p>
      {inSpace && head.pose ? <Scene content={scene} label="Pose" /> : <Plot data={data} names={names} time past={past} />}
    </>
  );
}

function Curve({ head }: { head: Head }) {
  const data = useMemo(() => {
    const step = head.length / head.curve.length;
    return [head.curve.map((_, index) => index * step), head.curve];
  }, [head]);
  const number = (value: number | null) => (value === null ? "–" : rounded(value));
  return (
    <>
      <Plot data={data} names={["value"]} time={false} />
      <p class="quiet">least {number(head.least)}, mean {number(head.mean)}, greatest {number(head.greatest)}</p>
    </>
  );
}

/** Return the names and the values inside of a value. */
function leaves(name: string, value: unknown): [string, unknown][] {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return [[name, value]];
  return Object.entries(value).flatMap(([key, item]) => leaves(`${name}.${key}`, item));
}

const FEW = 4; // columns of a table with one row, which is shown as a list if there are more

function Table(props: { columns: string[]; rows: unknown[][]; total: number; isFlat?: boolean }) {
  const [only] = props.rows;
  if (only && props.total === 1 && !props.isFlat && (props.columns.length > FEW || only.some((cell) => typeof cell === "object" && cell !== null && !Array.isArray(cell)))) {
    return (
      <table>
        <tbody>
          {props.columns.flatMap((name, column) => leaves(name, only[column])).map(([name, value]) => (
            <tr key={name}>
              <th scope="row" class="quiet">{name}</th>
              <td>{typeof value === "string" ? value : asText(value)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    );
  }
  return (
    <div class="table">
      <table>
        <thead>
          <tr>{props.columns.map((name) => <th key={name} scope="col">{name}</th>)}</tr>
        </thead>
        <tbody>
          {props.rows.map((row, index) => (
            <tr key={index}>
              {row.map((cell, column) => <td key={column}>{typeof cell === "string" ? cell : asText(cell)}</td>)}
            </tr>
          ))}
        </tbody>
      </table>
      {props.total > props.rows.length && <p class="quiet">… {whole(props.total - props.rows.length)} more</p>}
    </div>
  );
}
