"""Looks like `ultralytics.YOLO`, knows one thing: orange."""

from dataclasses import dataclass

import numpy as np


@dataclass
class Boxes:
    xyxy: np.ndarray  # N × 4 float32, in pixels
    conf: np.ndarray  # N float32
    cls: np.ndarray  # N float32


@dataclass
class Results:
    boxes: Boxes


class YOLO:
    def __init__(self, weights: str) -> None:
        self.weights = weights

    def __call__(self, frame: np.ndarray) -> list[Results]:
        """Find the orange thing on one picture (height × width × red, green, blue)."""
        red, blue = frame[:, :, 0].astype(int), frame[:, :, 2]
        rows, columns = np.nonzero(red - blue > 100)
        if not len(rows):
            empty = np.empty(0, np.float32)
            return [Results(Boxes(empty.reshape(0, 4), empty, empty))]
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        fill = len(rows) / ((box[2] - box[0]) * (box[3] - box[1]))
        return [
            Results(
                Boxes(np.array([box], np.float32), np.array([fill], np.float32), np.array([32], np.float32))
            )
        ]
