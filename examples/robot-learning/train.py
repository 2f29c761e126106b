"""Behaviour cloning: fits the network to the data set in ``out/dataset``; writes ``out/policy.npz``.

For each row, the network learns the actions of the next fifth of a second. The network before training goes
to ``out/untrained.npz``, the losses to ``out/losses.npy``.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from network import SCALE, STEPS, Network, features
from task_frame import TaskFrame
from world import Vector

OUT = Path("out")


def episodes(dataset: Path) -> list[tuple[Vector, Vector]]:
    """Return states (n, 6) and actions (n, 2) of each episode of a LeRobot data set."""
    found: list[tuple[Vector, Vector]] = []
    for file in sorted(dataset.glob("data/*/*.parquet")):
        columns = ["episode_index", "observation.state", "action"]
        table: Any = pq.read_table(file, columns=columns)  # pyright: ignore[reportUnknownMemberType]
        index = table["episode_index"].to_numpy()
        states, actions = (
            np.array(table[name].to_pylist(), np.float64) for name in ("observation.state", "action")
        )
        found += [(states[index == number], actions[index == number]) for number in np.unique(index)]
    return found


def samples(states: Vector, actions: Vector) -> tuple[Vector, Vector]:
    """Return inputs (n, 3) and targets (n, 2 · STEPS) of an episode.

    The last action goes on after the end.
    """
    frames = [TaskFrame.of(state) for state in states]
    longer = np.concatenate([actions, np.repeat(actions[-1:], STEPS, axis=0)])
    chunks = [frame.turn(longer[row : row + STEPS]) for row, frame in enumerate(frames)]
    inputs, targets = np.array([features(frame) for frame in frames]), np.array(chunks) / SCALE
    # The same push in a mirror is a push as well.
    mirrored = (inputs * [1, -1, 1], targets * [1, -1])
    return (
        np.concatenate([inputs, mirrored[0]]),
        np.concatenate([targets, mirrored[1]]).reshape(-1, 2 * STEPS),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=4000, help="of the optimiser [4000]")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = episodes(OUT / "dataset")
    if not found:
        sys.exit("error: there is no data set in out/dataset; record one first: dora run record.yml")
    inputs, targets = (
        np.concatenate(parts) for parts in zip(*(samples(*each) for each in found), strict=True)
    )
    random = np.random.default_rng(options.seed)
    network = Network.untrained(random)
    network.save(OUT / "untrained.npz")
    losses = list(network.fit(inputs, targets, options.steps, random))
    network.save(OUT / "policy.npz")
    np.save(OUT / "losses.npy", losses)
    loss = f"loss {losses[0]:.3f} at first, {np.mean(losses[-100:]):.3f} at last"
    print(f"{len(found)} episodes, {len(inputs) // 2} rows: {loss}")


if __name__ == "__main__":
    main()
