"""The command line of a ready-made node that needs PyAV."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable

from dora.daemon.processes.programs import BUILTIN_NODES
from dora.errors import DoraError
from dora.nodes.media.installed import check_av

_MORE = """
It is started by a dataflow with `path: {name}`; to join a running one by hand, give the id of its node with
`path: dynamic`. Its settings are the `parameters` of the node.
"""


def run_node(name: str, description: str, run: Callable[[str | None], int]) -> None:
    """Read the command line, run a node, and end the process with its exit status.

    ``run`` gets the id of a dynamic node, or None. A `DoraError` becomes one line and status 1.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {BUILTIN_NODES[name].module}", description=description + _MORE.format(name=name)
    )
    parser.add_argument("node", nargs="?", help="the id of a node with `path: dynamic`")
    node_id = parser.parse_args().node
    if node_id:  # started by hand, in a terminal: no dataflow reads its log
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        check_av(name)
        status = run(node_id)
    except DoraError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)
