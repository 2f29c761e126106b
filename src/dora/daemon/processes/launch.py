"""Start the process of a node, as its dataflow and the options of the run say."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dora.daemon.control_server import Connection
from dora.daemon.event_loop import Loop
from dora.daemon.logs.diagnostics import debug_log
from dora.daemon.logs.entry import Stream
from dora.daemon.options import RunOptions, shell_nodes_allowed
from dora.daemon.processes.child import Child
from dora.daemon.processes.command import command_line, environment
from dora.daemon.processes.interpreter import interpreter_of
from dora.daemon.run_directory import RunDirectory
from dora.dataflow.model import Dataflow, TimerSource
from dora.wire.node_config import Address


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


# Second processes of nodes: those with new code, before they take over (hot reload).


@dataclass
class WaitingReplacement:
    """The connection of a successor that makes ready, or has (``ready``)."""

    connection: Connection
    incarnation: int
    ready: bool = False


class Replacements:
    """At most one successor per node, and those that were dropped but have not ended yet."""

    def __init__(self) -> None:
        self._waiting: dict[str, Child] = {}
        self._dropped: list[Child] = []

    def __iter__(self) -> Iterator[Child]:
        return iter([*self._waiting.values(), *self._dropped])

    def add(self, node_id: str, child: Child) -> None:
        self._waiting[node_id] = child

    def take(self, node_id: str) -> Child:
        """Return the successor, which is the node's process from now on."""
        return self._waiting.pop(node_id)

    def drop(self, node_id: str) -> None:
        """Kill a successor; one that has ended already is fine."""
        if (child := self._waiting.pop(node_id, None)) is not None:
            self._dropped.append(child)
            child.signal(signal.SIGKILL)

    def ended(self, node_id: str, child: Child) -> bool:
        """Forget a process that ended; tells whether it was the successor, and not dropped."""
        if self._waiting.get(node_id) is child:
            del self._waiting[node_id]
            return True
        self._dropped.remove(child)
        return False
