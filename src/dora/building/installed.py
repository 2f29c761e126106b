"""What is installed in the environment of dora: are requirements met, with all that they require?

pip answers that as well, but takes half a second for it, at every `dora run`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from dora.building.provided import PROVIDED


@dataclass(frozen=True)
class Fault:
    """A requirement that is not met."""

    requirement: str
    required_by: str  # the distribution that asks for it, "" if it was asked for directly
    found: str | None  # the version that is installed, None if there is none

    def __str__(self) -> str:
        who = f"{self.required_by} requires {self.requirement}" if self.required_by else self.requirement
        return f"{who}, but " + (f"{self.found} is installed" if self.found else "it is not installed")


def faults(requirements: Iterable[str]) -> list[Fault]:
    """Return what is not met of the requirements and, in turn, of theirs.

    ``dora-rs`` counts as met in every version, and so does what is required by a URL. A requirement that
    cannot be read counts as not met.
    """
    found: list[Fault] = []
    done: set[tuple[str, str]] = set()
    waiting = [(text, "", "") for text in requirements]
    while waiting:
        text, required_by, extra = waiting.pop()
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            found.append(Fault(text, required_by, None))
            continue
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        if name in PROVIDED:
            continue
        package = _installed(name)
        if package is None or not requirement.specifier.contains(package.version, True):
            version = package.version if package is not None else None
            shown = str(requirement).partition(";")[0].strip()
            found.append(Fault(shown, required_by, version))
            continue
        for wanted in ("", *sorted(requirement.extras)):
            if (name, wanted) not in done:
                done.add((name, wanted))
                waiting += ((line, package.name, wanted) for line in package.requires or ())
    return found


def _installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None
