"""``python -m dora.nodes.foxglove``: the node that ``path: dora-foxglove`` starts."""

from __future__ import annotations

import sys

from dora.nodes.command_line import run_node_command

_VARIABLES = """
environment variables:
  DORA_FOXGLOVE_ADDRESS  where to listen, HOST:PORT [127.0.0.1:8765]
"""

if __name__ == "__main__":
    sys.exit(
        run_node_command(
            "dora-foxglove",
            "Show the inputs of a node in Foxglove. The outputs of the node send the messages that "
            "Foxglove publishes.",
            "dora.nodes.foxglove.node",
            _VARIABLES,
        )
    )
