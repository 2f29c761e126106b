"""Films the first episodes: ``out/NAME.mp4``, and ``out/NAME.webp`` with five moments of the first one."""

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from dora import Node

NAME = os.environ.get("NAME", "rollout")
OUT = Path("out")
EPISODES = 12  # that are filmed
RATE = 25  # pictures a second: each second one of the camera
HOLD = RATE // 2  # pictures for which the end of an episode stays
MOMENTS = 5

GREEN, RED = (70, 160, 70), (60, 60, 210)
COLORS = {"human": (200, 60, 160), "policy": (140, 100, 40)}


class Film:
    """A video, and the pictures of its first episode."""

    def __init__(self) -> None:
        OUT.mkdir(exist_ok=True)
        self._file: Any = av.open(str(OUT / f"{NAME}.mp4"), "w")
        self._video: Any = None  # until the size of pictures is known
        self._first: list[Any] = []

    def add(self, image: np.ndarray, times: int = 1) -> None:
        """Show a picture (height, width, 3) in BGR."""
        if self._video is None:
            options = {"crf": "26", "preset": "veryfast"}
            self._video = self._file.add_stream("h264", rate=RATE, options=options)
            self._video.height, self._video.width = image.shape[:2]
            self._video.pix_fmt = "yuv420p"
            self._video.time_base = Fraction(1, RATE)
        for _ in range(times):
            self._file.mux(self._video.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))

    def remember(self, image: np.ndarray) -> None:
        """Keep a picture of the first episode."""
        self._first.append(image)

    def close(self) -> None:
        """Write the files."""
        if self._video is not None:
            self._file.mux(self._video.encode())
        self._file.close()
        if self._first:
            chosen = np.linspace(0, len(self._first) - 1, MOMENTS).round().astype(int)
            strip: Any = np.concatenate([self._first[number] for number in chosen], axis=1)
            cv2.imwrite(str(OUT / f"{NAME}.webp"), strip, [cv2.IMWRITE_WEBP_QUALITY, 80])


def label(image: np.ndarray, episode: int, active: str, outcome: str) -> np.ndarray:
    """Return the picture with a line of text, and with a frame if the episode is over."""
    image = image.copy()
    color = COLORS.get(active, (90, 90, 90))
    text = f"{episode}: {active or 'nobody'}"
    cv2.putText(image, text, (8, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, color, 1, cv2.LINE_AA)
    if outcome:
        height, width = image.shape[:2]
        frame = GREEN if outcome == "success" else RED
        cv2.rectangle(image, (0, 0), (width - 1, height - 1), frame, 8)
    return image


def main() -> None:
    film = Film()
    active = ""
    with Node() as node:
        for event in node:
            if event["type"] != "INPUT":
                continue
            if event["id"] == "active":
                active = event["value"][0].as_py()
                continue
            about = event["metadata"]
            episode, step, outcome = about["episode"], about["step"], about["outcome"]
            if episode > EPISODES or (step % 2 and not outcome):
                continue
            image = event.numpy().reshape(about["height"], about["width"], 3)
            image = label(image, episode, active, outcome)
            film.add(image, HOLD if outcome else 1)
            if episode == 1 and step >= 0:
                film.remember(image)
    film.close()


if __name__ == "__main__":
    main()
