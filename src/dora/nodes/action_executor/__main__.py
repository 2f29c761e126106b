"""``python -m dora.nodes.action_executor``: the node that ``path: dora-action-executor`` starts."""

from __future__ import annotations

import sys

from dora.nodes.action_executor.executor import run
from dora.nodes.command_line import run_node_command

_DESCRIPTION = """
Send commands at a steady rate out of action chunks. It is started by a dataflow with
`path: dora-action-executor`; to join a running one by hand, give the id of its node with `path: dynamic`.
"""

if __name__ == "__main__":
    sys.exit(run_node_command("dora.nodes.action_executor", _DESCRIPTION, lambda: run))
