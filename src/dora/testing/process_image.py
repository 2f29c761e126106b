"""Stand-in for the process of a node: a body to run, and the state of the process around it.

A *body* is a function without arguments, made from the program that a dataflow names (a Python file, the
command of an installed package, the operators of a runtime) or from its replacement in a test. The
*image* is the state that each process has of its own and threads share: arguments, environment,
``__main__``, the current directory, the first entry of ``sys.path``, standard output. It is active
whenever the node runs.
"""

from __future__ import annotations

import inspect
import io
import logging
import os
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

from dora.dataflow.model import NodeSpec
from dora.errors import DoraError
from dora.node.log import LogBridge
from dora.node.program import Body, operators_body, script_body
from dora.testing.scheduler import current

OnLine = Callable[[str, str], None]


class CannotRunInTest(DoraError):
    """A node cannot run inside the process of a test; the message has the remedy."""


class ProcessImage:
    """The state of one node's process, swapped in and out."""

    def __init__(
        self,
        arguments: list[str],
        environment: Mapping[str, str],
        directory: str,
        main: types.ModuleType | None,
        folder: str | None,
        on_line: OnLine,
    ) -> None:
        """``on_line`` gets the stream's name and each line. The script is in ``folder``."""
        self.streams = {name: LineStream(name, on_line) for name in ("stdout", "stderr")}
        self._arguments = arguments
        self._environment: dict[str, str | None] = {**environment}  # None: the node has deleted it
        self._directory = directory if os.path.isdir(directory) else None
        self._main = main
        self._folder = folder
        self._outside: tuple[Any, ...] = ()
        self._is_inside = False

    def enter(self) -> None:
        self._is_inside = True
        self._outside = (sys.argv, sys.modules.get("__main__"), os.getcwd(), dict(os.environ))
        sys.argv = self._arguments
        for name, value in self._environment.items():
            _set_variable(name, value)
        if self._main is not None:
            sys.modules["__main__"] = self._main
        if self._folder is not None:
            sys.path.insert(0, self._folder)
        if self._directory is not None:
            os.chdir(self._directory)

    def leave(self) -> None:
        if not self._is_inside:
            return
        self._is_inside = False
        arguments, main, directory, before = self._outside
        self._arguments, sys.argv = sys.argv, arguments
        now = dict(os.environ)
        for name in {*before, *now, *self._environment}:
            if name in self._environment or now.get(name) != before.get(name):
                self._environment[name] = now.get(name)
                _set_variable(name, before.get(name))
        if self._main is not None and main is not None:
            sys.modules["__main__"] = main
        if self._folder is not None and self._folder in sys.path:
            sys.path.remove(self._folder)
        if self._directory is not None:
            self._directory = os.getcwd()
            os.chdir(directory)

    def flush(self) -> None:
        for stream in self.streams.values():
            stream.end()


def _set_variable(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


class LineStream(io.TextIOBase):
    """A text stream that calls a function with each complete line."""

    encoding = "utf-8"

    def __init__(self, name: str, on_line: OnLine) -> None:
        self._name = name
        self._on_line = on_line
        self._rest = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._on_line(self._name, line)
        return len(text)

    def end(self) -> None:
        """Pass on the text behind the last line end."""
        if self._rest:
            self.write("\n")


class _Switch(io.TextIOBase):
    """Replaces ``sys.stdout``: nodes write to their own streams, other threads to the original one."""

    def __init__(self, name: str, original: TextIO) -> None:
        self._name = name
        self._original = original

    def _target(self) -> Any:
        found = current()
        image = found[1].image if found is not None else None
        return image.streams[self._name] if isinstance(image, ProcessImage) else self._original

    def write(self, text: str) -> int:
        count: int = self._target().write(text)
        return count

    def flush(self) -> None:
        target = self._target()
        if not target.closed:  # the original one may be, when the collector finds this object
            target.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target(), name)


class _Bridge(LogBridge):
    """Turns the log records of nodes into their log lines; leaves the test's own alone."""

    def __init__(self) -> None:
        super().__init__("")

    def emit(self, record: logging.LogRecord) -> None:
        found = current()
        if found is not None and found[1].owner is not None:
            self._node_id = found[1].owner
            super().emit(record)


@contextmanager
def streams_of_nodes() -> Iterator[None]:
    """Give every node its own output and log, inside the block."""
    stdout, stderr = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Switch("stdout", stdout), _Switch("stderr", stderr)
    root, bridge = logging.getLogger(), _Bridge()
    level = root.level
    root.addHandler(bridge)
    if level == logging.WARNING:  # the default; nodes log from INFO on
        root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(bridge)
        root.setLevel(level)
        sys.stdout, sys.stderr = stdout, stderr


# --------------------------------------------------------------------------- bodies


def command_body(name: str) -> Body | None:
    """Return what runs the console script of an installed package, None if there is none."""
    from importlib.metadata import entry_points

    for entry in entry_points(group="console_scripts", name=name):
        main: Body = entry.load()
        return main
    return None


def function_body(function: Callable[..., object]) -> Body:
    """Return what runs a function as a node.

    A function with a parameter gets the `Node`, one without makes its own. One that is ``async`` runs
    in an asyncio loop.
    """
    wants_node = any(
        parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        for parameter in inspect.signature(function).parameters.values()
    )

    def run() -> object:
        if not wants_node:
            return _finished(function())
        from dora.node.node import Node

        with Node() as node:
            return _finished(function(node))

    return run


def _finished(result: object) -> object:
    if inspect.iscoroutine(result):
        import asyncio

        return asyncio.run(result)
    return result


def body_of(spec: NodeSpec, directory: str, main: types.ModuleType) -> tuple[Body, str | None]:
    """Return the body of a node as the dataflow describes it, and the folder of its script.

    Raises `CannotRunInTest` for what is no Python.
    """
    if spec.is_runtime:
        return operators_body({}), None
    path = os.path.join(directory, os.path.expanduser(spec.path or ""))
    if not spec.is_shell:
        if path.endswith(".py") and os.path.isfile(path):
            return script_body(path, main), os.path.dirname(path)
        if os.sep not in (spec.path or "") and (body := command_body(spec.path or "")) is not None:
            return body, None
    raise CannotRunInTest(
        f"node `{spec.id}` (path: {spec.path}) is no Python file and no command of an installed Python "
        f"package, so it cannot run inside a test; give something instead of it: nodes={{{spec.id!r}: ...}}"
    )
