"""Dataflow files: from YAML text to a checked, immutable model, and from the model to a plan of links.

Names are imported lazily: processes that need only the model do not load the parser.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dora.dataflow.loader import (
        check_manifest,
        check_module,
        expanded,
        expanded_text,
        load,
        missing_files,
        parse,
    )

__all__ = ["check_manifest", "check_module", "expanded", "expanded_text", "load", "missing_files", "parse"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from dora.dataflow import loader

        return getattr(loader, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
