"""How the nodes of a dataflow would start: from the template process, or plainly and why.

The template is asked for an empty program in the place of each node. So it decides as it does at a start,
imports included.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Final

import msgspec

from dora.daemon.event_loop import Loop
from dora.daemon.processes.launch_spec import CannotSpawn, launch_spec
from dora.daemon.template.client import ForkedProcess, TemplateClient, fork_request, why_plain
from dora.daemon.template.process import open_template
from dora.daemon.template.program import INTERPRETER_OPTION, program_of
from dora.daemon.template.protocol import ForkRequest, Refused
from dora.dataflow.model import Dataflow, NodeSpec
from dora.wire.node_config import Address

TIMEOUT: Final = 120.0  # seconds for all answers; packages such as torch take seconds to import
_NO_TEMPLATE: Final = "this system has no template process"
_EMPTY_PROGRAM: Final = "keyword"  # a module of Python that does nothing when it is run


Found = dict[str, Refused | None]  # by node; None: it starts from the template


def find_starts(dataflow: Dataflow) -> Found:
    """Return why the template refuses each node whose process dora starts, None for those that it forks.

    Nodes that cannot start at all are left out. Without a template, all nodes start plainly.
    """
    template = open_template(start=True)
    if template is None:
        return {node.id: Refused(_NO_TEMPLATE) for node in dataflow.nodes if not node.is_dynamic}
    loop = Loop()
    client = TemplateClient(loop, template)
    found: Found = {}
    try:
        asked = [
            node.id
            for node in dataflow.nodes
            if not node.is_dynamic and _ask(client, dataflow, node, found)
        ]
        deadline = time.monotonic() + TIMEOUT
        while not found.keys() >= set(asked) and time.monotonic() < deadline:
            loop.run_once(deadline)
    finally:
        client.close()
        template.close()
        loop.close()
    late = Refused(f"the template process has not answered in {TIMEOUT:.0f} s")
    found.update({node_id: late for node_id in asked if node_id not in found})
    return {node.id: found[node.id] for node in dataflow.nodes if node.id in found}


def _ask(client: TemplateClient, dataflow: Dataflow, node: NodeSpec, found: Found) -> bool:
    """Have the template put into ``found`` how a node starts; return False if it need not be asked."""
    spec = launch_spec(dataflow, node, uv=False)
    try:
        command = spec.command(allow_shell=True)
    except CannotSpawn:
        return False
    if reason := why_plain(node, command):
        found[node.id] = Refused(reason)
        return False
    address = Address("", node.id, "", 0, data_inputs=False)
    request = fork_request(node, command, spec.process_environment(address), spec.directory)

    def on_started(process: ForkedProcess) -> None:
        process.close()
        found[node.id] = None

    def on_refused(refused: Refused) -> None:
        found[node.id] = refused

    client.start(_of_empty_program(request), on_started, on_refused)
    return True


def _of_empty_program(request: ForkRequest) -> ForkRequest:
    """Return the request for a process that has the same packages, and ends at once."""
    program = program_of([os.fsdecode(word) for word in request.command])
    assert program is not None
    command = (sys.executable, INTERPRETER_OPTION, "-m", _EMPTY_PROGRAM)
    return msgspec.structs.replace(
        request,
        command=tuple(map(os.fsencode, command)),
        # `python -m` has the folder on its path that a script has as its own.
        directory=os.path.dirname(os.path.realpath(program.script))
        if program.script
        else request.directory,
    )
