"""Draws the boxes on the frames; writes ``out/detections.mp4`` and ``out/detections.png``; counts."""

import statistics
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np

from dora import Node

OUT = Path("out")
KINDS = (("face", (80, 200, 80)), ("eye", (230, 160, 50)), ("smile", (60, 120, 240)))


def draw(image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return a copy of ``image`` (BGR) with the boxes (N × 6) drawn on it."""
    image = image.copy()
    for x0, y0, x1, y1, confidence, kind in boxes:
        name, colour = KINDS[int(kind)]
        left, top = int(x0), int(y0)
        cv2.rectangle(image, (left, top), (int(x1), int(y1)), colour, 2, cv2.LINE_AA)
        label = f"{name} {confidence:.2f}"
        (width, height), _ = cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)
        cv2.rectangle(image, (left - 1, top - height - 8), (left + width + 6, top), colour, cv2.FILLED)
        where, white = (left + 3, top - 5), (255, 255, 255)
        cv2.putText(image, label, where, cv2.FONT_HERSHEY_SIMPLEX, 0.45, white, 1, cv2.LINE_AA)
    return image


class Album:
    """Pairs frames with their boxes, in order, and keeps the best picture."""

    def __init__(self) -> None:
        self.waiting: dict[int, np.ndarray] = {}  # frame number -> frame
        self.boxes = np.empty((0, 6), np.float32)
        self.video: cv2.VideoWriter | None = None
        self.written = 0
        self.best = -1.0

    def write(self, image: np.ndarray) -> None:
        picture = draw(image, self.boxes)
        if self.video is None:
            height, width = image.shape[:2]
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self.video = cv2.VideoWriter(str(OUT / "detections.mp4"), codec, 30, (width, height))
        self.video.write(picture)
        self.written += 1
        score = float(self.boxes[:, 4].sum())
        if score > self.best:
            self.best = score
            cv2.imwrite(str(OUT / "detections.png"), picture)

    def detected(self, frame: int, boxes: np.ndarray) -> None:
        """Write all frames up to ``frame``; those that the detector skipped get the boxes before."""
        for number in sorted(number for number in self.waiting if number <= frame):
            if number == frame:
                self.boxes = boxes
            self.write(self.waiting.pop(number))

    def close(self) -> None:
        for number in sorted(self.waiting):
            self.write(self.waiting.pop(number))
        if self.video is not None:
            self.video.release()


def main() -> None:
    OUT.mkdir(exist_ok=True)
    album = Album()
    arrivals: list[datetime] = []
    latencies: list[float] = []  # milliseconds
    found = 0
    for event in Node():
        if event["type"] != "INPUT":
            continue
        metadata = event["metadata"]
        if event["id"] == "image":
            album.waiting[metadata["frame"]] = event.numpy()
        elif event["id"] == "bbox":
            now = datetime.now(UTC)
            arrivals.append(now)
            latencies.append((now - metadata["timestamp"]).total_seconds() * 1000)
            boxes = event.numpy()
            found += bool(len(boxes))
            album.detected(metadata["frame"], boxes)
    album.close()
    if len(arrivals) < 2:
        print(f"{album.written} frames, too few detections to tell a rate")
        return
    rate = (len(arrivals) - 1) / (arrivals[-1] - arrivals[0]).total_seconds()
    latencies.sort()
    median, p99 = statistics.median(latencies), latencies[int((len(latencies) - 1) * 0.99)]
    print(f"{album.written} frames written, {found} of {len(arrivals)} detections found something")
    print(f"{rate:.1f} frames/s, camera to plot: median {median:.1f} ms, p99 {p99:.1f} ms")
    print(f"see {OUT / 'detections.png'} and {OUT / 'detections.mp4'}")


if __name__ == "__main__":
    main()
