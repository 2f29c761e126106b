"""`attach`: find the host of this program."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Final

from dora.errors import NotInDataflow
from dora.node.daemon_client import connect
from dora.node.host import Host
from dora.transport.board import Board

TEST_INPUTS: Final = "DORA_TEST_WITH_INPUTS"

_OUTSIDE = """\
this program is a dora node, but it was started outside a dataflow (DORA_NODE_CONFIG is not set).

Either let a dataflow start it:
    nodes:
      - id: my-node
        path: {script}
    and then: dora run dataflow.yml
or declare it with `path: dynamic` in a dataflow that is running, and connect by its id:
    Node(node_id="my-node")
or give it recorded inputs: DORA_TEST_WITH_INPUTS=inputs.json python {script}"""


_IN_NOTEBOOK = (
    "a notebook joins a running dataflow by the id of a node that is declared there with "
    '`path: dynamic`: Node("my-node")'
)

in_process: Callable[[str | None], Host | None] = lambda _: None  # noqa: E731
"""Set by `dora.testing` while a dataflow in virtual time exists; None for threads outside of it."""


def attach(node_id: str | None) -> Host:
    """Return the host of this program.

    In this order: a dataflow in virtual time in this process, the dataflow that started this program,
    recorded inputs, a running dataflow that declares ``node_id`` as dynamic, a person at a terminal.
    Raises `NotInDataflow`, `ConnectError`.
    """
    if (host := in_process(node_id)) is not None:
        return host
    if not os.environ.get("DORA_NODE_CONFIG"):
        if inputs := os.environ.get(TEST_INPUTS):
            from dora.node.standalone.recorded_inputs import replay

            return replay(inputs, node_id)
        if node_id is None:
            if sys.stdin is not None and sys.stdin.isatty():
                from dora.node.standalone.interactive import converse

                return converse()
            if "ipykernel" in sys.modules:
                raise NotInDataflow(_IN_NOTEBOOK)
            raise NotInDataflow(_OUTSIDE.format(script=sys.argv[0] or "my_node.py"))
    channel, config = connect(node_id)
    return Host(channel, config, Board.open(config.board))
