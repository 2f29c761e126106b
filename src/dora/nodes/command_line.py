"""The command line of ready-made nodes."""

from __future__ import annotations

import argparse
import logging
import sys
import textwrap
from collections.abc import Callable
from importlib import import_module

from dora.errors import DoraError
from dora.node.node import Node

_WIDTH = 100  # characters of a line of the help


def run_node_command(
    name: str, description: str, run: Callable[[Node], None] | str, variables: str = ""
) -> int:
    """Join a dataflow and run a node in it; return the exit status.

    ``name``, ``description``, ``variables``: see `parse_node`. ``run`` runs the node. Where that needs a
    package, it is the name of a module with a function ``run``, which is imported once `check_installed`
    has found the package. That takes long, so it is done before the node is ready, while the others wait
    for it. A `DoraError` ends the node with its sentence and the status 1.
    """
    node_id = parse_node(name, description, variables)

    def body() -> None:
        function = _load(name, run) if isinstance(run, str) else run
        with Node(node_id) as node:
            function(node)

    return guarded(body)


def _load(name: str, module: str) -> Callable[[Node], None]:
    from dora.nodes.installed import check_installed

    check_installed(name)
    function: Callable[[Node], None] = import_module(module).run
    return function


def parse_node(name: str, description: str, variables: str = "") -> str | None:
    """Return the id that the command line gives to join as a dynamic node; None if a dataflow starts it.

    ``name`` is the one in ``path``: ``dora-camera`` is the module ``dora.nodes.camera``. ``description``
    says what the node does, and ``variables`` is the part of the help about environment variables.
    """
    text = (
        f"{description} It is started by a dataflow with `path: {name}`; to join a running one by hand, "
        "give the id of its node with `path: dynamic`."
    )
    parser = argparse.ArgumentParser(
        prog=f"python -m dora.nodes.{name.removeprefix('dora-').replace('-', '_')}",
        description=textwrap.fill(text, _WIDTH, break_on_hyphens=False),
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
