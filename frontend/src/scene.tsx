// Points, poses, transforms and boxes in space, on a canvas: a grid and axes, turned, moved and zoomed.
// Drawn by the processor, so that it looks the same on a robot without a graphics card.

import { useEffect, useRef, useState } from "preact/hooks";
import type { Cube } from "./feed";
import { colourOf } from "./preview";

export interface SceneContent {
  points?: Float32Array; // x, y, z of each
  isLine?: boolean;
  cubes?: Cube[];
  frames?: Frame[]; // poses, with the names of their frames
  trail?: [number, number, number][]; // where a pose has been
}

export interface Frame {
  name: string;
  place: [number, number, number];
  turn: [number, number, number, number]; // quaternion x, y, z, w
}

interface Camera {
  yaw: number;
  pitch: number;
  scale: number; // pixels for a unit
  middle: [number, number, number];
}

const BACK = "#0d1117";
const GRID = "#2a323d";
const AXES = ["#ff5d5d", "#5fd068", "#5b9dff"];
const WORDS = "#c6d0dc";
const MOST_PIXELS = 1.6e6;

export function Scene(props: { content: SceneContent; label: string }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const camera = useRef<Camera | null>(null);
  const content = useRef(props.content);
  content.current = props.content;
  const isAutomatic = useRef(true);
  const bounds = useRef(noBounds());
  const [, touched] = useState(0);

  const draw = () => {
    const element = canvas.current;
    const context = element?.getContext("2d");
    if (!element || !context || !element.clientWidth) return;
    const ratio = Math.min(devicePixelRatio || 1, Math.sqrt(MOST_PIXELS / (element.clientWidth * element.clientHeight)));
    const [width, height] = [Math.round(element.clientWidth * ratio), Math.round(element.clientHeight * ratio)];
    if (element.width !== width || element.height !== height) [element.width, element.height] = [width, height];
    // What grows stays in view, until a user has turned, moved or zoomed it.
    if (!camera.current || isAutomatic.current) {
      widen(bounds.current, content.current);
      camera.current = fitted(bounds.current, element.clientWidth, element.clientHeight);
    }
    paint(context, content.current, camera.current, ratio);
  };
  useEffect(draw, [props.content]);
  useEffect(() => {
    const watch = new ResizeObserver(draw);
    watch.observe(canvas.current!);
    const onWheel = (event: WheelEvent) => {
      event.preventDefault();
      change((now) => (now.scale *= 1.15 ** -Math.sign(event.deltaY)));
    };
    const element = canvas.current!;
    element.addEventListener("wheel", onWheel, { passive: false });
    return () => {
      watch.disconnect();
      element.removeEventListener("wheel", onWheel);
    };
  }, []);

  const change = (by: (camera: Camera) => void) => {
    if (!camera.current) return;
    isAutomatic.current = false;
    by(camera.current);
    draw();
  };
  const turn = (across: number, up: number) =>
    change((now) => {
      now.yaw += across;
      now.pitch = Math.max(-1.57, Math.min(1.57, now.pitch + up));
    });
  const move = (across: number, up: number) =>
    change((now) => {
      const { right, above } = basis(now);
      now.middle = now.middle.map((value, axis) => value - (across * right[axis]! - up * above[axis]!) / now.scale) as Camera["middle"];
    });
  const onPointerMove = (event: PointerEvent) => {
    if (!event.buttons) return;
    if (event.buttons === 2 || event.buttons === 4 || event.shiftKey) move(event.movementX, event.movementY);
    else turn(event.movementX / 120, -event.movementY / 120);
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (by) {
      if (event.shiftKey) move(20 * by[0]!, 20 * by[1]!);
      else turn(0.1 * by[0]!, -0.1 * by[1]!);
    } else if (event.key === "+" || event.key === "-") change((now) => (now.scale *= event.key === "+" ? 1.15 : 1 / 1.15));
    else if (event.key === "0") reset();
    else return;
    event.preventDefault();
  };
  const reset = () => {
    isAutomatic.current = true;
    bounds.current = noBounds();
    draw();
    touched((count) => count + 1);
  };
  return (
    <canvas
      ref={canvas}
      class="scene"
      tabIndex={0}
      role="img"
      aria-label={`${props.label}; drag or use the arrow keys to turn it, with Shift to move it, + and - to zoom, 0 to see all`}
      onPointerDown={(event) => event.currentTarget.setPointerCapture(event.pointerId)}
      onPointerMove={onPointerMove}
      onKeyDown={onKeyDown}
      onDblClick={reset}
      onContextMenu={(event) => event.preventDefault()}
    />
  );
}

type Vector = [number, number, number];

/** Return the directions to the right, upward and away on the screen. */
function basis({ yaw, pitch }: Camera): { right: Vector; above: Vector; away: Vector } {
  const [sy, cy, sp, cp] = [Math.sin(yaw), Math.cos(yaw), Math.sin(pitch), Math.cos(pitch)];
  return { right: [cy, -sy, 0], above: [-sy * sp, -cy * sp, cp], away: [sy * cp, cy * cp, sp] };
}

/** Return the corners of everything, by which the first view is chosen. */
function* corners(content: SceneContent): Generator<Vector> {
  const { points } = content;
  if (points) for (let index = 0; index + 2 < points.length; index += 3) yield [points[index]!, points[index + 1]!, points[index + 2]!];
  for (const [x, y, z, dx, dy, dz] of content.cubes ?? []) yield* [[x - dx, y - dy, z - dz], [x + dx, y + dy, z + dz]] as Vector[];
  for (const { place } of content.frames ?? []) yield place;
  yield* content.trail ?? [];
}

interface Bounds {
  low: number[];
  high: number[];
}

const noBounds = (): Bounds => ({ low: [Infinity, Infinity, Infinity], high: [-Infinity, -Infinity, -Infinity] });

function widen({ low, high }: Bounds, content: SceneContent): void {
  for (const corner of corners(content))
    for (let axis = 0; axis < 3; axis++) {
      low[axis] = Math.min(low[axis]!, corner[axis]!);
      high[axis] = Math.max(high[axis]!, corner[axis]!);
    }
}

function fitted({ low, high }: Bounds, width: number, height: number): Camera {
  if (low[0] === Infinity) return { yaw: 0.6, pitch: -0.6, scale: Math.min(width, height) / 4, middle: [0, 0, 0] };
  const middle = low.map((value, axis) => (value + high[axis]!) / 2) as Vector;
  const reach = Math.max(Math.hypot(...low.map((value, axis) => high[axis]! - value)), 1e-3);
  return { yaw: 0.6, pitch: -0.6, scale: (0.95 * Math.min(width, height * 1.2)) / Math.max(reach, 0.2), middle };
}

function paint(context: CanvasRenderingContext2D, content: SceneContent, camera: Camera, ratio: number): void {
  const { width, height } = context.canvas;
  const { right, above, away } = basis(camera);
  const scale = camera.scale * ratio;
  const [mx, my, mz] = camera.middle;
  const at = (x: number, y: number, z: number): [number, number, number] => {
    const [dx, dy, dz] = [x - mx, y - my, z - mz];
    return [
      width / 2 + scale * (dx * right[0] + dy * right[1] + dz * right[2]),
      height / 2 - scale * (dx * above[0] + dy * above[1] + dz * above[2]),
      dx * away[0] + dy * away[1] + dz * away[2],
    ];
  };
  context.fillStyle = BACK;
  context.fillRect(0, 0, width, height);
  const line = (from: Vector, to: Vector, colour: string, thick: number) => {
    const [a, b] = [at(...from), at(...to)];
    context.strokeStyle = colour;
    context.lineWidth = thick * ratio;
    context.beginPath();
    context.moveTo(a[0], a[1]);
    context.lineTo(b[0], b[1]);
    context.stroke();
  };

  // A grid of round numbers on the ground; its size follows the zoom.
  const wanted = 45 / camera.scale;
  const power = 10 ** Math.floor(Math.log10(wanted));
  const step = [1, 2, 5, 10].map((part) => part * power).find((size) => size >= wanted)!;
  const reach = step * 10;
  const [gx, gy] = [Math.round(mx / step) * step, Math.round(my / step) * step];
  for (let offset = -reach; offset <= reach * 1.0001; offset += step) {
    line([gx + offset, gy - reach, 0], [gx + offset, gy + reach, 0], GRID, 1);
    line([gx - reach, gy + offset, 0], [gx + reach, gy + offset, 0], GRID, 1);
  }
  for (let axis = 0; axis < 3; axis++) line([0, 0, 0], [0, 1, 2].map((other) => (other === axis ? step : 0)) as Vector, AXES[axis]!, 2.5);

  if (content.points?.length) (content.isLine ? paintLine : paintPoints)(context, content.points, at, ratio);
  if (content.trail && content.trail.length > 1) paintLine(context, Float32Array.from(content.trail.flat()), at, ratio);
  context.font = `600 ${11 * ratio}px system-ui`;
  context.textBaseline = "bottom";
  for (const [x, y, z, dx, dy, dz, label, name] of content.cubes ?? []) {
    const colour = colourOf(name || label);
    const corner = (bits: number): Vector => [x + (bits & 1 ? dx : -dx), y + (bits & 2 ? dy : -dy), z + (bits & 4 ? dz : -dz)];
    for (let bits = 0; bits < 8; bits++) for (const bit of [1, 2, 4]) if (!(bits & bit)) line(corner(bits), corner(bits | bit), colour, 1.5);
    if (label) {
      const [left, top] = at(x, y, z + dz);
      context.fillStyle = colour;
      context.fillText(label, left + 3 * ratio, top - 2 * ratio);
    }
  }
  const arm = Math.min(step * 0.6, 30 / camera.scale);
  for (const { name, place, turn } of content.frames ?? []) {
    for (let axis = 0; axis < 3; axis++) {
      const to = turned(turn, [0, 1, 2].map((other) => (other === axis ? arm : 0)) as Vector);
      line(place, place.map((value, index) => value + to[index]!) as Vector, AXES[axis]!, 2);
    }
    const [left, top] = at(...place);
    context.fillStyle = WORDS;
    context.fillText(name, left + 5 * ratio, top - 3 * ratio);
  }
  context.fillStyle = WORDS;
  context.font = `${11 * ratio}px system-ui`;
  context.fillText(`grid ${Number(step.toPrecision(2))} m`, 8 * ratio, height - 6 * ratio);
}

type Project = (x: number, y: number, z: number) => [number, number, number];

/** Draw points as small squares, near ones over far ones, coloured by their height. */
function paintPoints(context: CanvasRenderingContext2D, points: Float32Array, at: Project, ratio: number): void {
  const { width, height } = context.canvas;
  const image = context.getImageData(0, 0, width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const depths = new Float32Array(width * height).fill(Infinity);
  let low = Infinity;
  let high = -Infinity;
  for (let index = 2; index < points.length; index += 3) {
    low = Math.min(low, points[index]!);
    high = Math.max(high, points[index]!);
  }
  const side = Math.max(2, Math.round(2 * ratio));
  for (let index = 0; index + 2 < points.length; index += 3) {
    const z = points[index + 2]!;
    const [x, y, deep] = at(points[index]!, points[index + 1]!, z);
    const [left, top] = [Math.round(x), Math.round(y)];
    if (left < 0 || top < 0 || left + side > width || top + side > height) continue;
    const colour = COLOURS[Math.max(0, Math.min(255, Math.round((255 * (z - low)) / (high - low || 1))))]!;
    for (let row = top; row < top + side; row++)
      for (let place = row * width + left; place < row * width + left + side; place++)
        if (deep < depths[place]!) {
          depths[place] = deep;
          pixels[place] = colour;
        }
  }
  context.putImageData(image, 0, 0);
}

function paintLine(context: CanvasRenderingContext2D, points: Float32Array, at: Project, ratio: number): void {
  context.strokeStyle = "#facc15";
  context.lineWidth = 2 * ratio;
  context.lineJoin = "round";
  context.beginPath();
  for (let index = 0; index + 2 < points.length; index += 3) {
    const [x, y] = at(points[index]!, points[index + 1]!, points[index + 2]!);
    if (index) context.lineTo(x, y);
    else context.moveTo(x, y);
  }
  context.stroke();
}

/** Blue for low, green for the middle, yellow for high; as the bytes of an image: alpha, blue, green, red. */
const COLOURS = Uint32Array.from({ length: 256 }, (_, index) => {
  const stops = [[68, 104, 240], [32, 190, 200], [120, 220, 90], [253, 231, 60]];
  const place = (index / 255) * (stops.length - 1);
  const below = Math.min(stops.length - 2, Math.floor(place));
  const [red, green, blue] = stops[below]!.map((value, channel) => Math.round(value + (stops[below + 1]![channel]! - value) * (place - below)));
  return ((255 << 24) | (blue! << 16) | (green! << 8) | red!) >>> 0;
});

/** Turn a vector by a quaternion. */
export function turned([x, y, z, w]: Frame["turn"], [a, b, c]: Vector): Vector {
  const [tx, ty, tz] = [2 * (y * c - z * b), 2 * (z * a - x * c), 2 * (x * b - y * a)];
  return [a + w * tx + y * tz - z * ty, b + w * ty + z * tx - x * tz, c + w * tz + x * ty - y * tx];
}

/** Return the place and the turn of each frame in the frame that has no parent, from transforms to their parents. */
export function framesOf(transforms: (string | number)[][]): Frame[] {
  const known = new Map(transforms.map((item) => [item[1] as string, item]));
  const done = new Map<string, Frame>();
  const find = (name: string, depth: number): Frame => {
    const before = done.get(name);
    if (before) return before;
    const item = known.get(name);
    let frame: Frame = { name, place: [0, 0, 0], turn: [0, 0, 0, 1] };
    if (item && depth < 64) {
      const parent = find(item[0] as string, depth + 1);
      const [, , x, y, z, qx, qy, qz, qw] = item as number[];
      const move = turned(parent.turn, [x!, y!, z!]);
      frame = { name, place: parent.place.map((value, axis) => value + move[axis]!) as Vector, turn: product(parent.turn, [qx!, qy!, qz!, qw!]) };
    }
    done.set(name, frame);
    return frame;
  };
  for (const [parent, child] of transforms) {
    find(parent as string, 0);
    find(child as string, 0);
  }
  return [...done.values()];
}

function product([a, b, c, d]: Frame["turn"], [x, y, z, w]: Frame["turn"]): Frame["turn"] {
  return [d * x + a * w + b * z - c * y, d * y - a * z + b * w + c * x, d * z + a * y - b * x + c * w, d * w - a * x - b * y - c * z];
}
