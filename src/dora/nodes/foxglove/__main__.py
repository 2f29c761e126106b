"""``python -m dora.nodes.foxglove``: the node that ``path: dora-foxglove`` starts."""

from __future__ import annotations

import sys
from collections.abc import Callable

from dora.node.node import Node
from dora.nodes.command_line import run_node_command
from dora.nodes.installed import check_installed

_DESCRIPTION = """
Show the inputs of a node in Foxglove. It is started by a dataflow with `path: dora-foxglove`; to join a
running one by hand, give the id of its node with `path: dynamic`. The outputs of the node send the
messages that Foxglove publishes.
"""
_VARIABLES = """
environment variables:
  DORA_FOXGLOVE_ADDRESS  where to listen, HOST:PORT [127.0.0.1:8765]
"""


def load() -> Callable[[Node], None]:
    """Return what runs the node; raises `DoraError` without the SDK of Foxglove."""
    check_installed("dora-foxglove")
    from dora.nodes.foxglove.node import run

    return run


if __name__ == "__main__":
    sys.exit(run_node_command("dora.nodes.foxglove", _DESCRIPTION, load, _VARIABLES))
