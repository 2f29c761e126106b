"""Reads the text in pictures with the models that RapidOCR brings along (PaddleOCR, in the format ONNX)."""

from typing import Any

import numpy as np
import pyarrow as pa
from rapidocr import RapidOCR

from dora import Node

EDGE = 4  # pixels: a text that is closer to the edge of the picture may be cut, and is left out


FIELDS = {"bbox": pa.float32(), "conf": pa.float32(), "labels": pa.string()}
BOXES = pa.struct([(name, pa.list_(kind)) for name, kind in FIELDS.items()])


class Reader:
    def __init__(self) -> None:
        self._models = RapidOCR(params={"Global.log_level": "error"})
        self._models(np.zeros((480, 640, 3), np.uint8))  # the first one takes longer

    def read(self, image: np.ndarray) -> tuple[np.ndarray, list[str], list[float]]:
        """Return boxes (N × 4: x0, y0, x1, y1), texts and confidences; ``image`` is H × W × 3, BGR."""
        found: Any = self._models(image)
        if found.boxes is None:
            return np.empty((0, 4), np.float32), [], []
        # Each text has four corners. A box is upright, so it contains them.
        boxes = np.hstack([found.boxes.min(axis=1), found.boxes.max(axis=1)])
        height, width = image.shape[:2]
        inside = np.hstack([boxes[:, :2] > EDGE, boxes[:, 2:] < (width - EDGE, height - EDGE)])
        whole: Any = inside.all(axis=1)
        texts = [text for text, is_whole in zip(found.txts, whole, strict=True) if is_whole]
        return boxes[whole], texts, [float(score) for score in np.array(found.scores)[whole]]


def main() -> None:
    reader = Reader()
    with Node() as node:
        for event in node:
            if event["type"] != "INPUT":
                continue
            metadata = event["metadata"]
            image = event.numpy().reshape(metadata["height"], metadata["width"], 3)
            boxes, texts, confidences = reader.read(image)
            # These keys let viewers draw the boxes over the picture.
            found = pa.array([{"bbox": boxes.ravel(), "conf": confidences, "labels": texts}], type=BOXES)
            stamp = {"timestamp": metadata["timestamp"]}  # when the picture was taken
            node.send_output("boxes", found, {**stamp, "primitive": "boxes2d", "format": "xyxy"})
            node.send_output("text", pa.array(texts, pa.string()), {**stamp, "primitive": "text"})


if __name__ == "__main__":
    main()
