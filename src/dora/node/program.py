"""Run the program of a node inside a process that is not its own: a test, or a command that debugs it."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

Body = Callable[[], object]


def script_body(path: str, main: types.ModuleType) -> Body:
    """Return what runs a Python file as ``__main__``."""

    def run() -> None:
        with open(path, "rb") as file:
            code = compile(file.read(), path, "exec")
        main.__dict__.clear()  # of what an earlier process of the node has left
        main.__dict__.update(__name__="__main__", __file__=path, __doc__=None, __package__=None)
        exec(code, main.__dict__)

    return run


def operators_body(classes: Mapping[str, Callable[[], Any]]) -> Body:
    """Return what runs the operators of a runtime. ``classes`` are used instead of their files."""

    def run() -> None:
        from dora.node.runtime import Runtime

        Runtime(classes).run()

    return run


@contextmanager
def forget_modules_of(folders: list[str]) -> Iterator[None]:
    """Forget, after the block, modules that scripts found beside them: the next test has its own."""
    before = set(sys.modules)
    try:
        yield
    finally:
        places = tuple(os.path.join(folder, "") for folder in folders)
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if places and file is not None and os.path.abspath(file).startswith(places):
                del sys.modules[name]
