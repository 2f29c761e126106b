"""The table as seen from the puck, with the goal straight ahead."""

from typing import NamedTuple

import numpy as np
from world import Vector, arm_at


class TaskFrame(NamedTuple):
    """``goal_ahead``: the unit vector from the puck to the goal. ``tip``: the tip's place, ahead and aside.

    Everything that matters for a push is in here: it does not depend on where on the table it is done.
    """

    goal_ahead: Vector
    distance: float  # from the puck to the goal
    tip: Vector

    @classmethod
    def of(cls, state: Vector) -> "TaskFrame":
        """Return the frame for a state of the table, as `World.state` gives it."""
        state = np.asarray(state, np.float64)
        puck, goal = state[2:4], state[4:6]
        _, tip = arm_at(state[:2])
        way = goal - puck
        distance = float(np.linalg.norm(way))
        ahead = way / max(distance, 1e-9)
        return cls(ahead, distance, _turn(tip - puck, ahead))

    def turn(self, velocity: Vector) -> Vector:
        """Return velocities (…, 2) on the table in this frame."""
        return _turn(velocity, self.goal_ahead)

    def turn_back(self, velocity: Vector) -> Vector:
        """Return velocities (…, 2) of this frame on the table."""
        return _turn(velocity, self.goal_ahead * [1, -1])


def _turn(vectors: Vector, ahead: Vector) -> Vector:
    """Turn vectors (…, 2) such that ``ahead`` becomes the x axis."""
    x, y = ahead
    return vectors @ np.array([[x, -y], [y, x]])
