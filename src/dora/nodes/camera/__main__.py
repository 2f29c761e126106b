"""``python -m dora.nodes.camera``: the node that ``path: dora-camera`` starts."""

from __future__ import annotations

import sys
from collections.abc import Callable

from dora.node.node import Node
from dora.nodes.command_line import run_node_command
from dora.nodes.installed import check_installed

_DESCRIPTION = """
Send the images of a camera, a video file or a test pattern, with their times of capture.
It is started by a dataflow with `path: dora-camera`; to join a running one by hand, give
the id of its node with `path: dynamic`. Its settings are the `parameters` of the node.
"""


def load() -> Callable[[Node], None]:
    """Return what runs the node; raises `DoraError` without PyAV."""
    check_installed("dora-camera")
    from dora.nodes.camera.run import run

    return run


if __name__ == "__main__":
    sys.exit(run_node_command("dora.nodes.camera", _DESCRIPTION, load))
