"""A teacher that knows how to push: around the puck until it is behind it, then towards the goal."""

import numpy as np
from task_frame import TaskFrame
from world import CONTACT, Vector

TRAVEL, PUSH = 0.6, 0.35  # metres a second


def expert(state: Vector) -> Vector:
    """Return the velocity of the tip for a state."""
    frame = TaskFrame.of(state)
    ahead, aside = frame.tip
    distance = float(np.hypot(ahead, aside))
    if ahead < 0 and abs(aside) < 0.5 * -ahead:
        gap = max(0.0, distance - CONTACT)
        velocity = np.array([PUSH + 4 * gap, -10 * aside])
    else:
        # Around the puck, on a circle that leaves a gap, to the side on which the tip is already.
        outwards = np.array([ahead, aside]) / distance
        side = 1.0 if aside >= 0 else -1.0
        around = side * np.array([-outwards[1], outwards[0]])
        velocity = TRAVEL * around + 8 * (CONTACT + 0.025 - distance) * outwards
    speed = float(np.linalg.norm(velocity))
    return frame.turn_back(velocity * min(1, TRAVEL / speed))
