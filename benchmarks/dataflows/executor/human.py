"""Takes the arm over, gives it back, stops it and starts it again, at random moments."""

import json
import os
import random
import time
from pathlib import Path

import numpy as np

from dora import Input, Node

TAKEOVERS = int(os.environ["BENCHMARK_TAKEOVERS"])
PATIENCE = 30.0  # seconds after which a stop counts as not confirmed

chance = random.Random(2)


class Cycle:
    """One take-over: moments in seconds from its beginning."""

    def __init__(self, begin: float) -> None:
        self.begin = begin
        self.takes = chance.uniform(0.05, 0.55)
        self.gives = self.takes + chance.uniform(0.05, 0.3)
        self.stops = chance.uniform(0.0, self.gives)
        self.pause = chance.uniform(0.0, 0.1)  # between the confirmed stop and the start
        self.stopped_at = self.confirmed_at = 0.0
        self.started = self.given = False


def main() -> None:
    """Send until the number of take-overs is reached."""
    confirmed: dict[str, bool] = {}
    unconfirmed = done = 0
    cycle: Cycle | None = None
    with Node() as node:
        for event in node:
            if not isinstance(event, Input):
                continue
            now = time.monotonic()
            if event.id != "tick":
                word = event.value[0].as_py()
                confirmed[event.id] = word == "stopped"
                if cycle is None and event.id == "active" and word:
                    cycle = Cycle(now)  # the policy moves the arm
                continue
            if cycle is None:
                continue
            moment = now - cycle.begin
            if cycle.takes <= moment < cycle.gives:
                target = np.full(3, np.sin(2 * np.pi * time.time() / 5) + 1, np.float32)
                node.send_output("command", target)
            elif moment >= cycle.gives and not cycle.given:
                cycle.given = True
                node.send_output("command", np.empty(0, np.float32))  # released
            if moment >= cycle.stops and not cycle.stopped_at:
                confirmed.clear()
                cycle.stopped_at = now
                node.send_output("stop", np.ones(1), {"sent_ns": time.time_ns()})
            elif cycle.stopped_at and not cycle.confirmed_at:
                if confirmed.get("active") and confirmed.get("state"):
                    cycle.confirmed_at = now
                elif now - cycle.stopped_at > PATIENCE:
                    unconfirmed += 1
                    cycle.confirmed_at = now
            elif cycle.confirmed_at and now - cycle.confirmed_at >= cycle.pause and not cycle.started:
                cycle.started = True
                node.send_output("start", np.ones(1), {"sent_ns": time.time_ns()})
            if cycle.started and cycle.given:
                done += 1
                cycle = Cycle(now)
                if done == TAKEOVERS:
                    break
    result = {"takeovers": done, "unconfirmed": unconfirmed}
    Path(os.environ["BENCHMARK_RESULTS"], "human.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
