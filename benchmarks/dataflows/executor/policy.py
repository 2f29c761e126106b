"""A policy that follows a curve, and takes 5 to 300 ms at random."""

import os
import random
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

STEPS = 50
PERIOD = 0.02  # seconds

Path(os.environ["BENCHMARK_RESULTS"], "policy.pid").write_text(str(os.getpid()))
chance = random.Random(1)


def act(observation: dict[str, npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """Return a second of the curve, a little beside it."""
    begin = time.time()
    end = time.monotonic() + chance.uniform(0.005, 0.3)
    work = np.ones((64, 64))
    while time.monotonic() < end:
        work = np.tanh(work @ work)  # as a model that keeps its core busy
    moments = begin + PERIOD * np.arange(STEPS)[:, None]
    curve = np.sin(2 * np.pi * moments / 5) + chance.uniform(-0.05, 0.05)
    return np.repeat(curve, len(observation["state"]), axis=1).astype(np.float32)
