"""``python -m dora.nodes.camera``: the node that ``path: dora-camera`` starts."""

from __future__ import annotations

import sys

from dora.nodes.command_line import run_node_command

if __name__ == "__main__":
    sys.exit(
        run_node_command(
            "dora-camera",
            "Send the images of a camera, a video file or a test pattern, with their times of capture. Its "
            "settings are the `parameters` of the node.",
            "dora.nodes.camera.node",
        )
    )
