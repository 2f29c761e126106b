"""The command line of ready-made nodes without options of their own."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable

from dora.errors import DoraError
from dora.node.node import Node


def run_node_command(
    module: str, description: str, load: Callable[[], Callable[[Node], None]], variables: str = ""
) -> int:
    """Join a dataflow and run a node in it; return the exit status.

    ``module``: for ``python -m``. ``load`` returns the function that runs the node: it imports what takes
    long before the node is ready, while the others wait for it. ``variables`` is the part of the help about
    environment variables. A `DoraError` ends the node with its sentence and the status 1.
    """
    node_id = parse_node(f"python -m {module}", description, variables)

    def body() -> None:
        run = load()
        with Node(node_id) as node:
            run(node)

    return guarded(body)


def parse_node(program: str, description: str, variables: str = "") -> str | None:
    """Return the id that the command line gives to join as a dynamic node; None if a dataflow starts it."""
    parser = argparse.ArgumentParser(
        prog=program,
        description=description,
        epilog=variables,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("node", nargs="?", help="the id of a node with `path: dynamic`")
    node_id: str | None = parser.parse_args().node
    if node_id:
        log_to_terminal()
    return node_id


def log_to_terminal() -> None:
    """Print the log of a node that is started by hand: no dataflow reads it."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")


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
