"""``python -m dora.nodes.lerobot_replay``: the node that ``path: dora-lerobot-replay`` starts."""

from __future__ import annotations

import sys

from dora.nodes.command_line import run_node_command

if __name__ == "__main__":
    sys.exit(
        run_node_command(
            "dora-lerobot-replay",
            "Send an episode of a data set for LeRobot as it was captured. Its settings are the "
            "`parameters` of the node.",
            "dora.nodes.lerobot.replay",
        )
    )
