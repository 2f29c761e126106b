"""``python -m dora.nodes.lerobot_recorder``: the node that ``path: dora-lerobot-recorder`` starts."""

from __future__ import annotations

import sys

from dora.nodes.command_line import run_node_command

if __name__ == "__main__":
    sys.exit(
        run_node_command(
            "dora-lerobot-recorder",
            "Record the inputs of a node as a data set for LeRobot. Its settings are the `parameters` of "
            "the node.",
            "dora.nodes.lerobot.recorder",
        )
    )
