"""A case: something that both implementations do, and what is observed of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.runner import Implementation


@dataclass(frozen=True)
class Case:
    """A name such as `scripts/types`, and a function from an implementation to its observations."""

    name: str
    observe: Callable[[Implementation], dict[str, Any]]
