"""A human at the keyboard: arrow keys push the tip of the arm, space stops it, q ends.

Each press adds a speed in its direction, up to `FASTEST`; the opposite key takes it away again. The table
is drawn in the terminal. The program joins the dataflow `keyboard.yml`, which has to run, as `teleop`.
"""

import os
import select
import sys
import termios
import time
import tty
from types import TracebackType
from typing import Self

import numpy as np

from dora import Node
from dora.errors import DoraError

STEP, FASTEST = 0.12, 0.36  # metres a second
ARROWS = {"A": (0, 1), "B": (0, -1), "C": (1, 0), "D": (-1, 0)}  # the last letter of what a terminal sends
PATIENCE = 30.0  # seconds in which the dataflow has to start
EVERY = 5  # images: each fifth one is drawn, ten a second
PIXEL = 4  # pixels of the camera's image for one of the terminal


class Keyboard:
    """Reads keys of the terminal one by one; ``with`` gives the terminal back as it was."""

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(sys.stdin)
        tty.setcbreak(sys.stdin)
        sys.stdout.write("\x1b[2J\x1b[?25l")  # an empty screen without a cursor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)
        print("\x1b[0m\x1b[?25h")

    def pressed(self) -> str:
        """Return what was typed since the last time, without waiting."""
        ready, _, _ = select.select([sys.stdin], [], [], 0)
        return os.read(sys.stdin.fileno(), 1024).decode(errors="replace") if ready else ""


def change(velocity: np.ndarray, typed: str) -> np.ndarray:
    """Return the velocity (2, metres a second) after these keys."""
    for place, key in enumerate(typed):
        if key == " ":
            velocity = np.zeros(2)
        elif key in ARROWS and typed[max(place - 2, 0) : place] in ("\x1b[", "\x1bO"):
            velocity = np.clip(velocity + STEP * np.array(ARROWS[key]), -FASTEST, FASTEST)
    return velocity


def draw(image: np.ndarray, line: str) -> None:
    """Draw an image (height, width, 3; BGR) with characters that show two pixels each, and a line below."""
    small = image[::PIXEL, ::PIXEL, ::-1]
    rows = ["\x1b[H"]
    for upper, lower in zip(small[::2], small[1::2], strict=True):
        before = ""
        for above, below in zip(upper.tolist(), lower.tolist(), strict=True):
            color = "\x1b[38;2;{};{};{};48;2;{};{};{}m".format(*above, *below)
            rows.append(("" if color == before else color) + "▀")
            before = color
        rows.append("\x1b[0m\r\n")
    sys.stdout.write("".join(rows) + line + "\x1b[K")
    sys.stdout.flush()


def join() -> Node:
    """Join the dataflow as soon as it runs; raises ``SystemExit`` if it does not."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return Node(node_id="teleop")
        except DoraError as error:
            if time.monotonic() > deadline:
                raise SystemExit(f"error: {error}") from None
            time.sleep(0.2)


def main() -> None:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise SystemExit("error: the keyboard needs a terminal")
    velocity = np.zeros(2)
    with join() as node, Keyboard() as keyboard:
        for event in node:
            if event["type"] != "INPUT":
                continue
            about = event["metadata"]
            if event["id"] == "state":
                typed = keyboard.pressed()
                if "q" in typed:
                    raise SystemExit(1)
                velocity = change(velocity, typed)
                if about["step"] < 0:  # between two episodes
                    velocity = np.zeros(2)
                command = velocity.astype(np.float32)
                node.send_output("command", command, {"timestamp": about["timestamp"]})
            elif about["step"] % EVERY == 0:
                image = event.numpy().reshape(about["height"], about["width"], 3)
                draw(image, f"episode {about['episode']}   arrow keys: push   space: stop   q: end")


if __name__ == "__main__":
    main()
