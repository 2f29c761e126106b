"""The command line of ready-made nodes without options of their own."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence

from dora.errors import DoraError
from dora.node.node import Node


def run_node_command(
    module: str, description: str, run: Callable[[Node], None], arguments: Sequence[str] | None = None
) -> int:
    """Join a dataflow and run a node in it; return the exit status.

    ``module``: for ``python -m``. A `DoraError` ends it with its sentence and the status 1.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("node", nargs="?", help="the id of a node with `path: dynamic`")
    node_id = parser.parse_args(arguments).node
    if node_id:  # started by hand, in a terminal: no dataflow reads its log
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    return guarded(lambda: _join(node_id, run))


def _join(node_id: str | None, run: Callable[[Node], None]) -> None:
    with Node(node_id) as node:
        run(node)


def guarded(body: Callable[[], None]) -> int:
    """Call a function; return the exit status, after the sentence of a `DoraError`."""
    try:
        body()
    except DoraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
