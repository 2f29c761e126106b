"""An operator that finds faces, eyes and smiles with the cascades that come with OpenCV."""

import cv2
import cv2.data
import numpy as np

import dora
from dora import DoraStatus, Event, Input, SendOutput

FACE, EYE, SMILE = 0, 1, 2
NAMES = ["face", "eye", "smile"]


def cascade(name: str) -> cv2.CascadeClassifier:
    return cv2.CascadeClassifier(f"{cv2.data.haarcascades}haarcascade_{name}.xml")


class Operator(dora.Operator):
    """Turns ``image`` into ``bbox``: rows of x0, y0, x1, y1, confidence, class, one after the other."""

    def __init__(self) -> None:
        cv2.setNumThreads(1)  # the other nodes want a core as well
        self.faces = cascade("frontalface_alt2")
        self.eyes = cascade("eye_tree_eyeglasses")
        self.smiles = cascade("smile")
        self.detect(np.zeros((480, 640), np.uint8))  # the first one takes longer

    def on_event(self, dora_event: Event, send_output: SendOutput) -> DoraStatus:
        if isinstance(dora_event, Input):
            boxes = self.detect(cv2.cvtColor(dora_event.numpy(), cv2.COLOR_BGR2GRAY))
            # Passing the metadata on keeps the time at which the camera took the picture.
            send_output("bbox", boxes, {**dora_event.metadata, "class_names": NAMES})
        return DoraStatus.CONTINUE

    def detect(self, gray: np.ndarray) -> np.ndarray:
        """Return the boxes of one picture as N × 6 float32, in pixels."""
        rows: list[tuple[float, ...]] = []
        # A face is large enough to be found at half the size, which takes a quarter of the time.
        half_size = cv2.resize(gray, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        for *box, confidence in find(self.faces, half_size, neighbors=4, smallest=40):
            x, y, width, height = (2 * length for length in box)
            rows.append((x, y, x + width, y + height, confidence, FACE))
            half = height // 2
            face = gray[y : y + height, x : x + width]
            eyes = find(self.eyes, face[:half], neighbors=4, smallest=width // 6, step=1.1)[:2]
            smiles = find(self.smiles, face[half:], neighbors=20, smallest=width // 3)[:1]
            for kind, top, found in ((EYE, y, eyes), (SMILE, y + half, smiles)):
                for fx, fy, fw, fh, certainty in found:
                    rows.append((x + fx, top + fy, x + fx + fw, top + fy + fh, certainty, kind))
        return np.array(rows, dtype=np.float32).reshape(-1, 6)


def find(
    classifier: cv2.CascadeClassifier, gray: np.ndarray, neighbors: int, smallest: int, step: float = 1.2
) -> list[tuple[int, int, int, int, float]]:
    """Return x, y, width, height and confidence of what is found, the surest first, none over another.

    A cascade has no probability; ours grows from 0.5 to 1 with the number of overlapping windows that
    agree, ``neighbors`` being the least. ``step`` is the ratio between two sizes that are looked for.
    """
    boxes, counts = classifier.detectMultiScale2(
        gray, scaleFactor=step, minNeighbors=neighbors, minSize=(smallest, smallest // 2)
    )
    found: list[tuple[int, int, int, int, float]] = []
    for index in map(int, np.argsort(counts)[::-1]):
        x, y, width, height = map(int, boxes[index])
        overlaps = any(
            x < left + columns and left < x + width and y < top + rows and top < y + height
            for left, top, columns, rows, _ in found
        )
        if not overlaps:
            found.append((x, y, width, height, float(counts[index] / (counts[index] + neighbors))))
    return found
