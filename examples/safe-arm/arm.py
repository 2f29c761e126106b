"""Moves the joints; draws how old the commands were, and what was late, in ``out/ages.png``."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dora import BudgetMissed, DeadlineMissed, Input, Node, SafeStateEntered, SafeStateLeft

OUT = Path("out")
BUDGET = 60  # milliseconds, as in the dataflow file


def draw(ages: list[tuple[float, float]], budget_misses: list[float], safe: list[list[float]]) -> None:
    """Draw ages (seconds since the start, milliseconds), the misses, and the times in the safe state."""
    OUT.mkdir(exist_ok=True)
    figure: Any = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*zip(*ages, strict=True), ".", label="age of the command")
    axes.axhline(BUDGET, color="tab:orange", linestyle="--", label=f"budget of {BUDGET} ms")
    axes.vlines(budget_misses, 0, BUDGET / 4, color="tab:orange", label="budget missed")
    for number, (start, end) in enumerate(safe):
        axes.axvspan(start, end, color="tab:red", alpha=0.3, label="" if number else "safe state")
    axes.set(xlabel="seconds", ylabel="from the camera to the arm, ms", ylim=(0, None))
    axes.legend(loc="upper left")
    figure.savefig(OUT / "ages.png", dpi=100)


def main() -> None:
    ages: list[tuple[float, float]] = []
    budget_misses: list[float] = []
    safe: list[list[float]] = []  # when each safe state began and ended
    deadlines = 0
    angles = np.zeros(2)
    start = last = time.monotonic()
    speeds = np.zeros(2, np.float32)
    with Node() as node:
        for event in node:
            now = time.monotonic()
            angles += speeds * (now - last)
            last = now
            match event:
                case DeadlineMissed():
                    deadlines += 1
                case BudgetMissed(slowest_hop=hop):
                    budget_misses.append(now - start)
                    if len(budget_misses) == 1:
                        print(f"over the budget, mostly in {hop}")
                case SafeStateEntered(reason=reason):
                    safe.append([now - start, now - start])
                    print(f"the arm holds still: {reason}")
                case SafeStateLeft(seconds=seconds):
                    safe[-1][1] = now - start
                    print(f"the arm moves again after {seconds:.1f} s")
                case Input(value=value, metadata=metadata):
                    speeds = value.to_numpy()
                    if "safe_state" not in metadata:
                        age = datetime.now(UTC) - metadata["timestamp"]
                        ages.append((now - start, age.total_seconds() * 1000))
                    else:
                        assert not speeds.any(), "the safe command is to hold still"
                case _:
                    pass
    if not ages:
        print("no command came")
        return
    draw(ages, budget_misses, safe)
    print(f"{len(ages)} commands, {len(budget_misses)} over the budget, {deadlines} deadlines missed")
    print(f"see {OUT / 'ages.png'}")


if __name__ == "__main__":
    main()
