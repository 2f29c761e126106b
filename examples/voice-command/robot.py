"""The robot: drives and turns on a plane, one command after the other, and answers in words."""

from collections import deque

import numpy as np
import pyarrow as pa

from dora import Node

TICKS = 20  # a second
SPEED = 1.0  # metres a second
TURNING = 90.0  # degrees a second
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
ANGLES = {"left": 90.0, "right": -90.0, "around": 180.0}


class Robot:
    """``x`` and ``y`` in metres, ``heading`` in degrees, to the left of the x axis."""

    def __init__(self) -> None:
        self.x = self.y = self.heading = 0.0
        self._waiting: deque[tuple[str, float]] = deque()  # drive, metres; turn, degrees
        self._kind, self._rest = "", 0.0  # of the motion in progress

    @property
    def busy(self) -> bool:
        return bool(self._rest or self._waiting)

    def obey(self, command: str) -> str:
        """Take a command of ``commands.gram``; return the answer."""
        match command.split()[1:]:
            case ["drive" | "go", direction, number, _]:
                metres = NUMBERS[number]
                self._waiting.append(("drive", metres if direction == "forward" else -metres))
                return f"{number} meters {direction}" if metres > 1 else f"one meter {direction}"
            case ["turn", direction]:
                self._waiting.append(("turn", ANGLES[direction]))
                return f"turning {direction}"
            case ["stop"]:
                answer = f"stopped {abs(self._rest):.1f} meters before the end" if self._rest else "stopped"
                self._waiting.clear()
                self._rest = 0.0
                return answer
            case ["where", "are", "you"]:
                side = "left" if self.y >= 0 else "right"
                along = "ahead" if self.x >= 0 else "behind"
                return f"{abs(self.x):.1f} meters {along}, and {abs(self.y):.1f} to the {side}"
        raise ValueError(f"commands.gram has a command that the robot does not know: {command}")

    def step(self) -> None:
        """Move on for one tick."""
        if not self._rest:
            if not self._waiting:
                return
            self._kind, self._rest = self._waiting.popleft()
        most = (SPEED if self._kind == "drive" else TURNING) / TICKS
        part = float(np.clip(self._rest, -most, most))
        self._rest = round(self._rest - part, 6)
        if self._kind == "turn":
            self.heading += part
            return
        self.x += part * np.cos(np.radians(self.heading))
        self.y += part * np.sin(np.radians(self.heading))


def main() -> None:
    robot = Robot()
    listening = True
    with Node() as node:
        for event in node:
            if event["type"] == "INPUT_CLOSED" and event["id"] == "command":
                listening = False
            elif event["type"] == "INPUT" and event["id"] == "command":
                answer = robot.obey(event["value"][0].as_py())
                node.send_output("answer", pa.array([answer]), {**event["metadata"], "primitive": "text"})
            elif event["type"] == "INPUT":
                robot.step()
                pose = np.array([robot.x, robot.y, robot.heading])
                node.send_output("pose", pose, {"primitive": "series"})
            if not listening and not robot.busy:
                break


if __name__ == "__main__":
    main()
