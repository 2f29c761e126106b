"""How long the tests of ``make stress`` take, and their random numbers."""

from __future__ import annotations

import os
import random

ROUNDS = int(os.environ.get("DORA_STRESS_ROUNDS", "100"))  # kills of each kind
FEW = max(ROUNDS // 5, 1)  # of what takes seconds each
SECONDS = float(os.environ.get("DORA_STRESS_SECONDS", "60"))  # of the soak
SEED = int(os.environ.get("DORA_STRESS_SEED", "1"))


def generator(what: str) -> random.Random:
    """Return random numbers that are the same in every session with the same seed."""
    return random.Random(f"{SEED} {what}")
