// A cloud of points that can be turned: pixels on a canvas, near ones over far ones by their colour.

import { useEffect, useRef } from "preact/hooks";

const SIDE = 320; // pixels

export function Cloud(props: { body: ArrayBuffer }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const turned = useRef({ yaw: 0.6, pitch: 0.5, scale: 1 });
  const points = useRef(new Float32Array());

  const draw = () => {
    const context = canvas.current?.getContext("2d");
    if (context) paint(context, points.current, turned.current);
  };
  useEffect(() => {
    points.current = new Float32Array(props.body);
    draw();
  }, [props.body]);

  const onPointerMove = (event: PointerEvent) => {
    if (!event.buttons) return;
    turned.current.yaw += event.movementX / 120;
    turned.current.pitch += event.movementY / 120;
    draw();
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const by = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[event.key];
    if (!by) return;
    event.preventDefault();
    turned.current.yaw += by[0]!;
    turned.current.pitch += by[1]!;
    draw();
  };
  const onWheel = (event: WheelEvent) => {
    event.preventDefault();
    turned.current.scale *= event.deltaY < 0 ? 1.1 : 1 / 1.1;
    draw();
  };
  return (
    <canvas
      ref={canvas}
      width={SIDE}
      height={SIDE}
      class="cloud"
      tabIndex={0}
      role="img"
      aria-label="Point cloud; drag or use the arrow keys to turn it"
      onPointerMove={onPointerMove}
      onKeyDown={onKeyDown}
      onWheel={onWheel}
    />
  );
}

function paint(context: CanvasRenderingContext2D, points: Float32Array, turned: { yaw: number; pitch: number; scale: number }) {
  const image = context.createImageData(SIDE, SIDE);
  const pixels = new Uint32Array(image.data.buffer);
  const low = [Infinity, Infinity, Infinity];
  const high = [-Infinity, -Infinity, -Infinity];
  for (let index = 0; index < points.length; index++) {
    const axis = index % 3;
    low[axis] = Math.min(low[axis]!, points[index]!);
    high[axis] = Math.max(high[axis]!, points[index]!);
  }
  const middle = low.map((value, axis) => (value + high[axis]!) / 2);
  const reach = Math.max(...low.map((value, axis) => high[axis]! - value), 1e-9);
  const scale = ((SIDE * 0.62) / reach) * turned.scale;
  const [sy, cy, sp, cp] = [Math.sin(turned.yaw), Math.cos(turned.yaw), Math.sin(turned.pitch), Math.cos(turned.pitch)];
  for (let index = 0; index + 2 < points.length; index += 3) {
    const x = points[index]! - middle[0]!;
    const y = points[index + 1]! - middle[1]!;
    const z = points[index + 2]! - middle[2]!;
    const across = x * cy - y * sy;
    const away = x * sy + y * cy;
    const up = z * cp - away * sp;
    const deep = (away * cp + z * sp) / reach; // about -0.9 to 0.9
    const column = Math.round(SIDE / 2 + across * scale);
    const row = Math.round(SIDE / 2 - up * scale);
    if (column < 0 || row < 0 || column >= SIDE - 1 || row >= SIDE - 1) continue;
    const shade = Math.max(0, Math.min(255, Math.round(128 + deep * 140)));
    const colour = (255 << 24) | (246 << 16) | ((shade & 255) << 8) | (255 - shade);
    for (const offset of [0, 1, SIDE, SIDE + 1]) pixels[row * SIDE + column + offset] = colour;
  }
  context.putImageData(image, 0, 0);
}
