"""``python -m dora.nodes.selector``: the node that ``path: dora-selector`` starts."""

from __future__ import annotations

import sys

from dora.nodes.command_line import run_node_command
from dora.nodes.selector.selector import run

_DESCRIPTION = """
Choose between sources of commands by priority, and go from one to the other without a jump. It is started
by a dataflow with `path: dora-selector`; to join a running one by hand, give the id of its node with
`path: dynamic`.
"""

if __name__ == "__main__":
    sys.exit(run_node_command("dora.nodes.selector", _DESCRIPTION, lambda: run))
