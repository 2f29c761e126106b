"""The simulated arm with two cameras, as a node: a step at each tick, one episode after the other.

``EPISODES``, ``SEED``, ``NAME`` and ``SECONDS`` come from the environment. The results go to
``out/NAME.json``.
"""

import argparse
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
from world import STEPS_PER_SECOND, TABLE, World

from dora import Node

EPISODES = int(os.environ.get("EPISODES", "20"))
SEED = int(os.environ.get("SEED", "1"))
NAME = os.environ.get("NAME", "sim")
OUT = Path("out")

PAUSE = 15  # ticks before an episode, in which the arm stands still and old commands run out
SECONDS = float(os.environ.get("SECONDS", "2.5"))  # after which an episode has failed
LIMIT = round(SECONDS * STEPS_PER_SECOND)  # the same in steps
TOP, WRIST = 256, 96  # pixels: the sizes of the two cameras' images


class Simulation:
    """Steps the world, and counts."""

    def __init__(self, node: Node, repeat_failures: bool) -> None:
        self._node = node
        self._repeat_failures = repeat_failures
        self._world = World(SEED)
        self._step = -PAUSE
        self._failed_repeats = 0
        self._by_human = 0  # steps of this episode in which a human had the arm
        self._takeovers = 0
        self._path: list[list[float]] = []
        self._episodes: list[dict[str, object]] = []
        self.command = np.zeros(2)
        self.source = ""

    @property
    def done(self) -> bool:
        return len(self._episodes) == EPISODES

    def tick(self, timestamp: object) -> None:
        """Take a step, and send what sensors and cameras measure."""
        world = self._world
        if self._step >= 0:
            if self.source == "human":
                self._takeovers += not self._by_human
                self._by_human += 1
            world.step(self.command)
            self._path.append((world.puck - world.goal).round(4).tolist())
        self._step += 1
        outcome = ""
        if self._step > 0:
            # The time of the human does not count for the policy.
            is_late = self._step - self._by_human >= LIMIT
            outcome = "success" if world.solved else "discard" if is_late else ""
        self._send(timestamp, outcome)
        if outcome:
            self._end(outcome == "success")

    def _send(self, timestamp: object, outcome: str) -> None:
        metadata = {"timestamp": timestamp, "episode": len(self._episodes) + 1, "step": self._step}
        send = self._node.send_output
        send("state", self._world.state(), metadata)
        top = self._world.draw(TOP)
        x, y = self._world.tip / TABLE * TOP
        wrist = cv2.getRectSubPix(top, (WRIST, WRIST), (float(x), float(TOP - y)))
        for name, image in (("top", top), ("wrist", wrist)):
            height, width = image.shape[:2]
            about = {"encoding": "bgr8", "width": width, "height": height, "outcome": outcome}
            send(name, image.ravel(), {**metadata, **about})
        if self._step == 0:
            send("episode", pa.array(["start"]), {"timestamp": timestamp})
        elif outcome:
            send("episode", pa.array([outcome]), {"timestamp": timestamp})

    def _end(self, success: bool) -> None:
        if success or not self._repeat_failures:
            seconds = self._step / STEPS_PER_SECOND
            self._episodes.append({"success": success, "seconds": seconds, "puck": self._path})
        else:
            self._failed_repeats += 1
            if self._failed_repeats > EPISODES:
                raise SystemExit(f"error: the teacher failed {self._failed_repeats} times")
        self._step, self._by_human, self._path = -PAUSE, 0, []
        self._world.reset()

    def save(self) -> None:
        """Write the results, with the latencies that the dataflow has measured."""
        successes = sum(bool(episode["success"]) for episode in self._episodes)
        print(f"{successes} of {len(self._episodes)} episodes succeeded, {self._takeovers} take-overs")
        OUT.mkdir(exist_ok=True)
        results = {
            "successes": successes,
            "takeovers": self._takeovers,
            "episodes": self._episodes,
            "paths": self._node.statistics()["paths"],
        }
        (OUT / f"{NAME}.json").write_text(json.dumps(results))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeat-failures", action="store_true", help="count only episodes that succeed")
    options = parser.parse_args()
    with Node() as node:
        simulation = Simulation(node, options.repeat_failures)
        for event in node:
            if event["type"] == "STOP":
                break
            if event["type"] != "INPUT":
                continue
            if event["id"] == "command":
                simulation.command = event.numpy().astype(np.float64)
                simulation.source = str(event["metadata"].get("source", ""))
                continue
            simulation.tick(event["metadata"]["timestamp"])
            if simulation.done:
                break
        simulation.save()


if __name__ == "__main__":
    main()
