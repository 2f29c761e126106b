"""Hot reload of an operator: its state moves to the new object, its modules are imported again."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType, NoneType
from typing import Any

_PLAIN = (bool, int, float, complex, str, bytes, NoneType)
_NOTHING = object()


def take_over(new: Any, old: Any, initial: Mapping[str, Any]) -> None:
    """Move the state of an operator to the object of its new code.

    A class with a method ``on_reload(self, old)`` does it itself. Otherwise the new object gets the
    attributes of the old one; except plain values (numbers, texts, tuples of them) that are still those
    that the old ``__init__`` set, according to ``initial``: there the value of the new code counts. So
    an edited threshold counts, and a counter goes on.
    """
    on_reload = getattr(new, "on_reload", None)
    if on_reload is not None:
        on_reload(old)
        return
    attributes = getattr(new, "__dict__", {})
    for name, value in getattr(old, "__dict__", {}).items():
        untouched = initial.get(name, _NOTHING) is value and _is_plain(value)
        if not untouched or name not in attributes:
            attributes[name] = value


def _is_plain(value: Any) -> bool:
    return type(value) in _PLAIN or (type(value) is tuple and all(map(_is_plain, value)))


class Unimported:
    """Imported modules, removed so that the next import runs their files again."""

    def __init__(self, files: Iterable[str]) -> None:
        wanted = {os.path.realpath(file) for file in files}
        self._modules: dict[str, ModuleType] = {
            name: module
            for name, module in list(sys.modules.items())
            if (file := getattr(module, "__file__", None)) and os.path.realpath(file) in wanted
        }
        importlib.invalidate_caches()
        for name in self._modules:
            del sys.modules[name]
            # `from package import module` takes the package's attribute, if it has one.
            package, _, short = name.rpartition(".")
            if package in sys.modules:
                vars(sys.modules[package]).pop(short, None)

    def put_back(self, *, everything: bool) -> None:
        """Restore the modules that were not imported again; with ``everything``, all of them."""
        for name, module in self._modules.items():
            if everything or name not in sys.modules:
                sys.modules[name] = module
                package, _, short = name.rpartition(".")
                if package in sys.modules:
                    vars(sys.modules[package])[short] = module
