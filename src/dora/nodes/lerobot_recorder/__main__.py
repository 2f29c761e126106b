"""``python -m dora.nodes.lerobot_recorder``: the node that ``path: dora-lerobot-recorder`` starts."""

from __future__ import annotations

import sys

from dora.nodes.command_line import guarded, run_node_command
from dora.nodes.media.installed import check_av

_DESCRIPTION = """
Record the inputs of a node as a data set for LeRobot.
It is started by a dataflow with `path: dora-lerobot-recorder`; to join a running one by hand, give
the id of its node with `path: dynamic`. Its settings are the `parameters` of the node.
"""


def main() -> int:
    """Run the node until the dataflow ends; return the exit status."""
    if status := guarded(lambda: check_av("dora-lerobot-recorder")):
        return status
    from dora.nodes.lerobot_recorder.run import (
        run,
    )  # while the others wait

    return run_node_command("dora.nodes.lerobot_recorder", _DESCRIPTION, run)


if __name__ == "__main__":
    sys.exit(main())
