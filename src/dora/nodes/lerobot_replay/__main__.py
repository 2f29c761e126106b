"""``python -m dora.nodes.lerobot_replay``: the node that ``path: dora-lerobot-replay`` starts."""

from __future__ import annotations

import sys

from dora.nodes.command_line import guarded, run_node_command
from dora.nodes.media.installed import check_av

_DESCRIPTION = """
Send an episode of a data set for LeRobot as it was captured.
It is started by a dataflow with `path: dora-lerobot-replay`; to join a running one by hand, give
the id of its node with `path: dynamic`. Its settings are the `parameters` of the node.
"""


def main() -> int:
    """Run the node until the dataflow ends; return the exit status."""
    if status := guarded(lambda: check_av("dora-lerobot-replay")):
        return status
    from dora.nodes.lerobot_replay.run import run  # while the others wait

    return run_node_command("dora.nodes.lerobot_replay", _DESCRIPTION, run)


if __name__ == "__main__":
    sys.exit(main())
