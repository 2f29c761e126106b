"""Do for a dataflow what has to be done before it can run, and no more."""

from __future__ import annotations

from collections.abc import Callable

from dora.building.options import BuildOptions, Built
from dora.dataflow.model import Dataflow
from dora.logs.entry import LogEntry


def build(dataflow: Dataflow, on_log: Callable[[LogEntry], None], options: BuildOptions) -> Built:
    """Do what nodes need before they can run; the result has the dataflow to run. Raises `BuildError`."""
    from dora.building.inline import with_inline_environments

    dataflow = with_inline_environments(dataflow)
    if options.uv or any(node.build or node.git or node.download or node.python for node in dataflow.nodes):
        from dora.building.builder import build_dataflow

        return build_dataflow(dataflow, on_log, options)
    return Built(dataflow)
