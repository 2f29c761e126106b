"""``python -m dora.nodes.foxglove``: the node that ``path: dora-foxglove`` starts."""

from __future__ import annotations

import argparse
import logging
import sys

from dora.errors import DoraError
from dora.nodes.foxglove.installed import check_foxglove

_DESCRIPTION = """
Show the inputs of a node in Foxglove. It is started by a dataflow with `path: dora-foxglove`; to join a
running one by hand, give the id of its node with `path: dynamic`. The outputs of the node
send the messages that Foxglove publishes.
"""
_VARIABLES = """
environment variables:
  DORA_FOXGLOVE_ADDRESS  where to listen, HOST:PORT [127.0.0.1:8765]
"""


def main() -> int:
    """Show all messages until the dataflow ends; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m dora.nodes.foxglove",
        description=_DESCRIPTION,
        epilog=_VARIABLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("node", nargs="?", help="the id of a node with `path: dynamic`")
    node_id = parser.parse_args().node
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        check_foxglove()
        from dora.nodes.foxglove.node import run

        run(node_id)
    except DoraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
