"""A camera: one frame for every tick.

``CAMERA`` may be a device index (``0``), a video or a picture. Without it, a virtual camera pans and
zooms over a photograph that comes with scikit-image. ``FRAMES`` limits the number of frames.
"""

import math
import os
from collections.abc import Callable
from typing import cast

import cv2
import numpy as np

from dora import Node

WIDTH, HEIGHT = 640, 480


def virtual_camera(photo: np.ndarray) -> Callable[[int], np.ndarray]:
    """Return a function from frame number to frame: a view that wanders over ``photo`` (BGR)."""
    rows, columns = photo.shape[:2]
    widest = min(columns, rows * WIDTH / HEIGHT)

    def frame(number: int) -> np.ndarray:
        turn = 2 * math.pi * number / 120  # one round in four seconds
        width = widest * (0.85 + 0.12 * math.sin(turn))
        height = width * HEIGHT / WIDTH
        left = (columns - width) * (0.5 + 0.4 * math.cos(turn))
        top = (rows - height) * (0.15 + 0.15 * math.sin(turn))
        scale = width / WIDTH
        view = np.array([[scale, 0, left], [0, scale, top]])
        return cv2.warpAffine(photo, view, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)

    return frame


def open_camera(source: str) -> Callable[[int], np.ndarray | None]:
    """Return a function from frame number to the next frame, or to None when there is none left."""
    if not source:
        from skimage import data

        photo = cast(np.ndarray, data.astronaut())  # scikit-image declares no type
        return virtual_camera(cv2.cvtColor(photo, cv2.COLOR_RGB2BGR))
    picture = None if source.isdigit() else cv2.imread(source)
    if picture is not None:
        return virtual_camera(picture)
    capture = cv2.VideoCapture(int(source) if source.isdigit() else source)
    if not capture.isOpened():
        raise SystemExit(f"CAMERA={source} is neither a picture, a video nor a camera that can be opened")

    def frame(_number: int) -> np.ndarray | None:
        found, image = capture.read()
        return cv2.resize(image, (WIDTH, HEIGHT)) if found else None

    return frame


def main() -> None:
    frames = int(os.environ.get("FRAMES", "120"))
    read = open_camera(os.environ.get("CAMERA", ""))
    node = Node()
    number = 0
    for event in node:
        if event["type"] == "STOP":
            break
        if event["type"] != "INPUT":
            continue
        image = read(number)
        if image is None:
            break
        node.send_output("image", image, {"frame": number})
        number += 1
        if number == frames:
            break
    print(f"{number} frames")


if __name__ == "__main__":
    main()
