"""Start the process of a node, as its dataflow and the options of the run say."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable

from dora.daemon.interpreter import interpreter_of
from dora.daemon.loop import Loop
from dora.daemon.options import RunOptions, shell_nodes_allowed
from dora.daemon.processes import Child
from dora.daemon.rundir import RunDirectory
from dora.daemon.spawn import command_line, environment
from dora.dataflow.model import Dataflow, TimerSource
from dora.logs.diagnostics import debug_log
from dora.logs.entry import Stream
from dora.wire.control import Address


def start_process(
    loop: Loop,
    run: RunDirectory,
    options: RunOptions,
    dataflow: Dataflow,
    node_id: str,
    incarnation: int,
    *,
    on_line: Callable[[Stream, str], None],
    on_end: Callable[[int | None, int | None], None],
) -> Child:
    """Start a process of a node; raises `CannotSpawn`."""
    node = dataflow.node(node_id)
    allow_shell = shell_nodes_allowed(options)
    address = Address(
        run.dataflow_id,
        node_id,
        run.socket,
        incarnation,
        data_inputs=any(not isinstance(item.source, TimerSource) for item in node.inputs),
    )
    interpreter = interpreter_of(dataflow, node, uv=options.uv)
    directory = dataflow.directory_of(node)
    env = environment(
        node,
        dataflow,
        address,
        interpreter,
        base=os.environ,
        run_id=run.run_id,
        strict_outputs=options.strict_outputs,
        allow_shell=allow_shell,
    )
    words = command_line(
        node,
        directory,
        interpreter,
        allow_shell=allow_shell,
        search_path=env.get("PATH"),
    )
    if (log := debug_log("dora.daemon.spawn")) is not None:
        log.debug("node `%s`: %s in %s", node_id, shlex.join(words), directory)
    return Child(
        loop,
        words,
        env=env,
        cwd=directory,
        cpu_affinity=node.cpu_affinity,
        on_line=on_line,
        on_end=on_end,
    )
