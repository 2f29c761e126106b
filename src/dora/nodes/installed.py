"""Check that the package of a ready-made node is installed."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.metadata import version
from typing import Final

from dora.daemon.processes.programs import BUILTIN_NODES
from dora.errors import DoraError

_AV: Final = ("av", "PyAV", "open")
_PACKAGES: Final = {
    "dora-rerun": ("rerun", "Rerun", "RecordingStream"),
    "dora-foxglove": ("foxglove", "Foxglove's SDK", "start_server"),
    "dora-camera": _AV,
    "dora-lerobot-recorder": _AV,
    "dora-lerobot-replay": _AV,
}
"""Node → the module that it imports, the name of the package for users, and a name in the module."""


def check_installed(node: str) -> None:
    """Raise `DoraError` unless the package of a node is there, new enough, and not another of that name.

    ``node`` is a name in `BUILTIN_NODES`, whose requirement counts.
    """
    needs = BUILTIN_NODES[node]
    module, package, member = _PACKAGES[node]
    distribution, _, rest = needs.requirement.partition(">=")
    least = rest.partition(",")[0]
    fault = "is not installed"
    try:
        imported = import_module(module)
        if hasattr(imported, member):
            found = getattr(imported, "__version__", None) or version(distribution)
            if _release(found) >= _release(least):
                return
            fault = f"{found} is too old: {least} or newer is needed"
    except ImportError as error:
        # `rerun_bindings` is a part of the package. A package that it needs itself is another fault.
        if re.split(r"[._-]", error.name or "")[0] != module:
            raise
    raise DoraError(
        f"{package} {fault}; install it with: pip install '{needs.requirement}' "
        f"(or dora with its extra: 'dora-dataflow[{needs.extra}]')"
    )


def _release(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2])
