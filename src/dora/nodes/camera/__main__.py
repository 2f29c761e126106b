"""``python -m dora.nodes.camera``: the node that ``path: dora-camera`` starts."""

from __future__ import annotations

import sys

from dora.nodes.command_line import guarded, run_node_command
from dora.nodes.media.installed import check_av

_DESCRIPTION = """
Send the images of a camera, a video file or a test pattern, with their times of capture.
It is started by a dataflow with `path: dora-camera`; to join a running one by hand, give
the id of its node with `path: dynamic`. Its settings are the `parameters` of the node.
"""


def main() -> int:
    """Run the node until the dataflow ends; return the exit status."""
    if status := guarded(lambda: check_av("dora-camera")):
        return status
    from dora.nodes.camera.run import run  # while the others wait

    return run_node_command("dora.nodes.camera", _DESCRIPTION, run)


if __name__ == "__main__":
    sys.exit(main())
