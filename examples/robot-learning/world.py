"""The simulated table: an arm with two joints pushes a puck to a goal. Plain NumPy; lengths are metres.

The pusher is a disc at the tip of the arm, which follows commands for its velocity. The puck slides with so
much friction that it stops at once (quasi-static pushing): where the pusher would overlap it, it moves away
along the line between the two centres. So a push beside the centre turns the puck off its way.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

TABLE = 0.6  # the length of its sides
BASE = np.array([0.3, 0.0])  # where the arm is mounted
LINK = 0.32  # the length of both links
PUCK, PUSHER, GOAL = 0.04, 0.015, 0.025  # radii; within GOAL of the goal, the puck is there
CONTACT = PUCK + PUSHER
LOWEST, HIGHEST = np.array([0.04, 0.06]), np.array([0.56, 0.56])  # where the pusher may go
MOST_SPEED = 0.8  # metres a second
STEPS_PER_SECOND = 50
SUBSTEPS = 5


def joints_at(tip: Vector) -> Vector:
    """Return the angles of shoulder and elbow (radians) at which the tip is there."""
    x, y = tip - BASE
    cosine = (x * x + y * y) / (2 * LINK * LINK) - 1
    elbow = np.arccos(np.clip(cosine, -1, 1))
    return np.array([np.arctan2(y, x) - elbow / 2, elbow])


def arm_at(joints: Vector) -> tuple[Vector, Vector]:
    """Return where elbow and tip are."""
    shoulder, both = joints[0], joints[0] + joints[1]
    elbow = BASE + LINK * np.array([np.cos(shoulder), np.sin(shoulder)])
    return elbow, elbow + LINK * np.array([np.cos(both), np.sin(both)])


class World:
    """The table with all that lies on it; ``seed`` decides where an episode begins."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self.reset()

    def reset(self) -> None:
        """Put goal, puck and tip somewhere else."""
        self.tip = self._random.uniform(LOWEST, HIGHEST)
        self.goal = self._random.uniform(0.12, 0.48, 2)
        self.puck = self.goal
        while np.linalg.norm(self.puck - self.goal) < 0.15 or np.linalg.norm(self.puck - self.tip) < 0.1:
            self.puck = self._random.uniform(0.14, 0.46, 2)

    def step(self, velocity: Vector) -> None:
        """Move the tip for a fiftieth of a second, and the puck with it."""
        velocity = velocity * min(1, MOST_SPEED / max(float(np.linalg.norm(velocity)), 1e-9))
        for _ in range(SUBSTEPS):
            moved = self.tip + velocity / (STEPS_PER_SECOND * SUBSTEPS)
            self.tip = np.clip(moved, LOWEST, HIGHEST)
            way = self.puck - self.tip
            distance = float(np.linalg.norm(way))
            if distance < CONTACT:
                self.puck = self.tip + way / max(distance, 1e-9) * CONTACT
                self.puck = np.clip(self.puck, PUCK, TABLE - PUCK)

    @property
    def solved(self) -> bool:
        """Whether the puck is at the goal."""
        return bool(np.linalg.norm(self.puck - self.goal) < GOAL)

    def state(self) -> NDArray[np.float32]:
        """Return shoulder, elbow (radians), and x, y (metres) of puck and goal."""
        return np.concatenate([joints_at(self.tip), self.puck, self.goal]).astype(np.float32)

    def draw(self, size: int) -> NDArray[np.uint8]:
        """Return the table from above, an array (size, size, 3) in BGR."""
        image = np.full((size, size, 3), (232, 236, 238), np.uint8)

        def at(point: Vector) -> tuple[int, int]:
            x, y = point / TABLE * size
            return round(x * 16), round((size - y) * 16)  # cv2 draws sixteenths of a pixel with shift=4

        def disc(point: Vector, radius: float, color: tuple[int, int, int], width: int = -1) -> None:
            cv2.circle(image, at(point), round(radius / TABLE * size * 16), color, width, cv2.LINE_AA, 4)

        disc(self.goal, PUCK, (150, 205, 150))
        disc(self.goal, PUCK, (90, 160, 90), 2)
        disc(self.puck, PUCK, (60, 110, 225))
        disc(self.puck, PUCK * 0.5, (90, 140, 240))
        elbow, tip = arm_at(joints_at(self.tip))
        for begin, end in ((BASE, elbow), (elbow, tip)):
            cv2.line(image, at(begin), at(end), (110, 90, 75), max(size // 28, 1), cv2.LINE_AA, 4)
        disc(elbow, 0.018, (70, 55, 45))
        disc(tip, PUSHER, (70, 55, 45))
        return image
