"""How much the long tests do (`make stress`, `make fuzz`), and their random numbers.

One variable makes all of them longer or shorter: ``DORA_TEST_ROUNDS``, 100 if it is not set.
"""

from __future__ import annotations

import os
import random

ROUNDS = int(os.environ.get("DORA_TEST_ROUNDS", "100"))  # kills of each kind
FEW = max(ROUNDS // 5, 1)  # of what takes seconds each
SECONDS = max(0.6 * ROUNDS, 20.0)  # of what runs for a time
# Examples of a search for faults; those that `make test` runs, too, have so few there.
EXAMPLES = 50 * ROUNDS if "DORA_TEST_ROUNDS" in os.environ else 150
SEED = int(os.environ.get("DORA_TEST_SEED", "1"))


def generator(what: str) -> random.Random:
    """Return random numbers that are the same in every session with the same seed."""
    return random.Random(f"{SEED} {what}")
