"""``python -m dora.nodes.rerun``: the node that ``path: dora-rerun`` starts."""

from __future__ import annotations

import os
import sys

from dora.nodes.command_line import guarded, parse_node
from dora.nodes.installed import check_installed

_VARIABLES = """
environment variables:
  OPERATING_MODE      SPAWN (open a viewer, the default), CONNECT (to a running one), SERVE (a web page)
                      or SAVE (a file)
  RERUN_SERVER_ADDR   the viewer to connect to, or where to serve [127.0.0.1:9876]
  RERUN_WEB_PORT      the port of the web page [9090]
  RERUN_SAVE          the file to save to [out/<dataflow id>/archive-<dataflow id>.rrd]
  RERUN_MEMORY_LIMIT  after how much the viewer forgets the oldest, like 4GB [25%]
  README              a text in Markdown to show
  IMAGE_WIDTH, IMAGE_HEIGHT  the size of images without one [640, 480]
  <name>_urdf, <name>_transform  a robot and its place
"""


def main() -> int:
    """Show all messages until the dataflow ends; return the exit status."""
    # Rerun logs to this node's log: only warnings and errors, without colours.
    os.environ.setdefault("RUST_LOG", "warn")
    os.environ.setdefault("NO_COLOR", "1")
    node_id = parse_node("dora-rerun", "Show the inputs of a node in Rerun.", _VARIABLES)

    def body() -> None:
        check_installed("dora-rerun")
        from dora.nodes.rerun.settings import read_settings
        from dora.nodes.rerun.show import run

        run(read_settings(os.environ), node_id)

    return guarded(body)


if __name__ == "__main__":
    sys.exit(main())
