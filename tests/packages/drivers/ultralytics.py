"""Stands for YOLO: finds a cat in each picture."""

from types import SimpleNamespace

import numpy


class Tensor(numpy.ndarray):
    def cpu(self):
        return self


class YOLO:
    names = {0: "cat"}

    def __init__(self, weights): ...

    def __call__(self, image, verbose):
        height, width, _ = image.shape
        found = {"xyxy": [[0, 0, width, height]], "conf": [0.9], "cls": [0]}
        boxes = {name: numpy.array(value, numpy.float32).view(Tensor) for name, value in found.items()}
        return [SimpleNamespace(boxes=SimpleNamespace(**boxes))]
