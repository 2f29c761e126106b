"""Generators of random numbers that packages make at their import: forks would share their numbers."""

from __future__ import annotations

import gc
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakSet

_seeded_by_system: WeakSet[random.Random] = WeakSet()


@contextmanager
def recorded() -> Iterator[None]:
    """Record generators of ``random`` that are seeded meanwhile, unless the package chooses the seed."""
    original = random.Random.seed

    def seed(self: random.Random, a: int | float | str | bytes | None = None, version: int = 2) -> None:
        (_seeded_by_system.add if a is None else _seeded_by_system.discard)(self)
        original(self, a, version)

    random.Random.seed = seed  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        random.Random.seed = original  # type: ignore[method-assign]


def renew() -> None:
    """Seed the recorded generators again, in a fork, and the global ones of NumPy and PyTorch."""
    for generator in _seeded_by_system:
        generator.seed()
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()
    if (torch := getattr(sys.modules.get("torch"), "default_generator", None)) is not None:
        torch.seed()  # of the CPU; the program makes the generators of other devices


def of_numpy() -> int:
    """Return how many generators of NumPy there are; nobody knows who has chosen their seeds.

    The global one is left out, and objects of earlier imports, which are exempt from garbage collection.
    """
    if (numpy := sys.modules.get("numpy.random")) is None:
        return 0
    found = {id(item) for item in gc.get_objects() if issubclass(type(item), numpy.BitGenerator)}
    return len(found - {id(numpy.mtrand._rand._bit_generator)})
