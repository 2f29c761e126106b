"""How log entries of a dataflow are displayed: format, filter, colours, warnings about the terminal."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TextIO

import msgspec

from dora.daemon.logs.console import Console
from dora.daemon.logs.entry import LogFilter
from dora.daemon.logs.formats import LogFormat, Renderer, renderer, wants_colour
from dora.daemon.report import shorter_path
from dora.dataflow.model import Dataflow
from dora.dataflow.problems import no_node


class Display(msgspec.Struct, frozen=True):
    """The format of log entries, and which of them are displayed."""

    format: LogFormat = "pretty"
    filter: LogFilter = LogFilter()


def open_console(
    dataflow: Dataflow,
    display: Display,
    stream: TextIO,
    dataflow_id: str | None = None,
    on_warning: Callable[[str], None] | None = None,
) -> Console:
    """Return a console that writes the log entries of a dataflow to a stream.

    ``on_warning`` is called if the stream fails; the dataflow goes on.
    """

    def on_broken(error: Exception) -> None:
        if on_warning is not None:
            closed = isinstance(error, (BrokenPipeError, ValueError))
            what = "was closed" if closed else f"takes no more ({getattr(error, 'strerror', error)})"
            on_warning(
                f"warning: standard output {what}; the dataflow goes on without showing its logs, "
                "Ctrl-C stops it"
            )

    render = renderer_for(dataflow, display, stream, dataflow_id)
    return Console(stream, render, display.filter, on_broken=on_broken)


def renderer_for(
    dataflow: Dataflow,
    display: Display,
    stream: TextIO,
    dataflow_id: str | None,
    build_id: str | None = None,
) -> Renderer:
    """Return the function that turns the log entries of a dataflow into text for a stream."""
    return renderer(
        display.format,
        colour=wants_colour(stream.isatty(), os.environ),
        nodes=[node.id for node in dataflow.nodes],
        dataflow_id=dataflow_id,
        build_id=build_id,
    )


def warn_about_dataflow(dataflow: Dataflow, log_filter: LogFilter, warn: Callable[[str], None]) -> None:
    """Warn about what was found while loading a dataflow, and about unknown nodes in a filter."""
    for warning in (*dataflow.warnings, *dataflow.type_warnings):
        warn(str(warning))
    ids = [node.id for node in dataflow.nodes]
    for name in log_filter.nodes:
        if name not in ids:
            warn(f"warning: the log filter names `{name}`: {no_node(name, ids)}")


def unshown_warning(count: int, log_directory: str | None = None) -> str:
    """Return the warning about log entries that were not displayed."""
    what = "1 log entry was" if count == 1 else f"{count} log entries were"
    where = f"; they are in {shorter_path(log_directory)}" if log_directory else ""
    return f"warning: {what} not shown, because the terminal was too slow{where}"
