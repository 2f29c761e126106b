"""A small neural network in NumPy: three numbers of the task frame in, a chunk of velocities out."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from task_frame import TaskFrame
from world import CONTACT, Vector

STEPS = 10  # of a chunk: a fifth of a second
HIDDEN = 64
SCALE = 0.3  # metres a second: the velocity that the network calls 1


def features(frame: TaskFrame) -> Vector:
    """Return what the network gets (3): where the tip is, and how far the goal."""
    return np.append(frame.tip / CONTACT, frame.distance / 0.2) / 2


class Network:
    """Two hidden layers with tanh; ``parameters`` are the weights and biases of three layers."""

    def __init__(self, parameters: list[Vector]) -> None:
        self.parameters = parameters

    @classmethod
    def untrained(cls, random: np.random.Generator) -> "Network":
        """Return a network with random weights."""
        sizes = [3, HIDDEN, HIDDEN, 2 * STEPS]
        parameters: list[Vector] = []
        for size, following in pairwise(sizes):
            parameters += [random.normal(0, size**-0.5, (size, following)), np.zeros(following)]
        return cls(parameters)

    @classmethod
    def load(cls, path: Path) -> "Network":
        """Read a network that `save` has written."""
        with np.load(path) as file:
            return cls([file[name] for name in file.files])

    def save(self, path: Path) -> None:
        """Write the parameters to a file of NumPy (``.npz``)."""
        np.savez(path, *self.parameters)

    def layers(self, inputs: Vector) -> list[Vector]:
        """Return the inputs (n, 3), and the results of all layers; the last one is (n, 2 · STEPS)."""
        w1, b1, w2, b2, w3, b3 = self.parameters
        first = np.tanh(inputs @ w1 + b1)
        second = np.tanh(first @ w2 + b2)
        return [inputs, first, second, second @ w3 + b3]

    def chunk(self, state: Vector) -> Vector:
        """Return velocities of the tip (STEPS, 2) on the table, for a state of it."""
        frame = TaskFrame.of(state)
        result = self.layers(features(frame)[None])[-1]
        return frame.turn_back(SCALE * result.reshape(STEPS, 2))

    def fit(
        self, inputs: Vector, targets: Vector, steps: int, random: np.random.Generator
    ) -> Iterator[float]:
        """Train by Adam (https://arxiv.org/abs/1412.6980) on the mean squared error; yield the losses."""
        rate, mean_decay, square_decay = 3e-3, 0.9, 0.999
        means = [np.zeros_like(each) for each in self.parameters]
        squares = [np.zeros_like(each) for each in self.parameters]
        for step in range(1, steps + 1):
            batch = random.integers(0, len(inputs), 256)
            loss, gradients = self._gradients(inputs[batch], targets[batch])
            fading = rate * 0.5 * (1 + np.cos(np.pi * step / steps))
            for number, gradient in enumerate(gradients):
                means[number] += (1 - mean_decay) * (gradient - means[number])
                squares[number] += (1 - square_decay) * (gradient**2 - squares[number])
                mean = means[number] / (1 - mean_decay**step)
                square = squares[number] / (1 - square_decay**step)
                self.parameters[number] = self.parameters[number] - fading * mean / (np.sqrt(square) + 1e-8)
            yield loss

    def _gradients(self, inputs: Vector, targets: Vector) -> tuple[float, list[Vector]]:
        """Return the loss, and its gradients with respect to the parameters."""
        layers = self.layers(inputs)
        error = layers[-1] - targets
        gradients: list[Vector] = []
        back = 2 * error / error.size
        for layer in (2, 1, 0):
            gradients = [layers[layer].T @ back, back.sum(axis=0), *gradients]
            if layer:
                back = (back @ self.parameters[2 * layer].T) * (1 - layers[layer] ** 2)
        return float((error**2).mean()), gradients
