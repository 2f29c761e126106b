"""``python -m dora.nodes.policy``: the node that ``path: dora-policy`` starts."""

from __future__ import annotations

import argparse
import sys

from dora.node.node import Node
from dora.nodes.command_line import guarded, log_to_terminal
from dora.nodes.policy.load import load_policy
from dora.nodes.policy.policy import run

_DESCRIPTION = """
Run a policy: observations in, action chunks out. It is started by a dataflow with `path: dora-policy` and
`args: policy.py:act`; to join a running one by hand, give the id of its node with `path: dynamic`.
"""


def main() -> int:
    """Run the policy until the dataflow ends; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dora.nodes.policy", description=_DESCRIPTION)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "policy", nargs="?", help="a function or a class: `policy.py:act` or `package.module:act`"
    )
    which.add_argument(
        "--lerobot", metavar="CHECKPOINT", help="a checkpoint of LeRobot: a folder, or a name"
    )
    parser.add_argument("--device", default="cpu", help="of PyTorch, for --lerobot [cpu]")
    parser.add_argument("--task", default="", help="what to do, in words, for --lerobot")
    parser.add_argument("--node", metavar="ID", help="the id of a node with `path: dynamic`")
    options = parser.parse_args()
    if options.node:
        log_to_terminal()

    def body() -> None:
        # Loaded before the node is ready, while the others wait for it.
        if options.lerobot:
            from dora.nodes.policy.checkpoint import load_checkpoint

            policy = load_checkpoint(options.lerobot, options.device, options.task)
        else:
            policy = load_policy(options.policy)
        with Node(options.node) as node:
            run(node, policy)

    return guarded(body)


if __name__ == "__main__":
    sys.exit(main())
