"""Draws what was read into ``out/shelf.png``, and lists it in ``out/stock.csv``."""

import csv
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np

from dora import Node

OUT = Path("out")
GREEN = (60, 160, 60)
COLUMNS = 3  # of pictures in the sheet


def draw(image: np.ndarray, boxes: np.ndarray, texts: list[str]) -> np.ndarray:
    """Return a copy of ``image`` (BGR) with the boxes (N × 4, in pixels) and their texts."""
    image = image.copy()
    for (left, top, right, bottom), text in zip(boxes.astype(int).tolist(), texts, strict=True):
        cv2.rectangle(image, (left, top), (right, bottom), GREEN, 2, cv2.LINE_AA)
        cv2.putText(image, text, (right + 8, bottom), cv2.FONT_HERSHEY_SIMPLEX, 0.6, GREEN, 2, cv2.LINE_AA)
    return image


def sheet(pictures: list[np.ndarray]) -> np.ndarray:
    """Return the pictures side by side, at half the size, with white between them."""
    small = [
        cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for picture in pictures
    ]
    framed = [np.pad(picture, ((4, 4), (4, 4), (0, 0)), constant_values=255) for picture in small]
    framed += [np.full_like(framed[0], 255)] * (-len(framed) % COLUMNS)
    return np.vstack([np.hstack(framed[row : row + COLUMNS]) for row in range(0, len(framed), COLUMNS)])


def main() -> None:
    pictures: list[np.ndarray] = []
    read: defaultdict[str, list[float]] = defaultdict(list)  # text -> its confidences
    for event in Node():
        if event["type"] != "SYNC":
            continue
        image, boxes = event["inputs"]["image"], event["inputs"]["boxes"]
        found = boxes["value"][0].as_py()
        for text, confidence in zip(found["labels"], found["conf"], strict=True):
            read[text].append(confidence)
        picture = image.numpy().reshape(image["metadata"]["height"], image["metadata"]["width"], 3)
        pictures.append(draw(picture, np.array(found["bbox"]).reshape(-1, 4), found["labels"]))
    if not pictures:
        raise SystemExit("no picture was read")
    OUT.mkdir(exist_ok=True)
    cv2.imwrite(str(OUT / "shelf.png"), sheet(pictures))
    with (OUT / "stock.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["text", "pictures", "confidence"])
        for text, confidences in read.items():
            table.writerow([text, len(confidences), f"{max(confidences):.2f}"])
            print(f"{text:15} in {len(confidences)} pictures, confidence {max(confidences):.2f}")
    print(f"{len(read)} texts in {len(pictures)} pictures, see {OUT / 'shelf.png'} and {OUT / 'stock.csv'}")


if __name__ == "__main__":
    main()
