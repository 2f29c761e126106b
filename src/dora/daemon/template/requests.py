"""Requests to fork processes, and the processes for which there are none."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import structs

from dora.daemon.template.context import LIMITS, context, ignored_signals, umask
from dora.daemon.template.program import program_of
from dora.daemon.template.protocol import ForkRequest
from dora.dataflow.model import NodeSpec, Scheduling, TimerSource

_ARRAYS: Final = "dora.node.arrays_before_fork"  # by name, because the daemon shares no code with nodes
_SEALING: Final = "dora.transport.sealing"


def why_plain(node: NodeSpec, command: Sequence[str]) -> str:
    """Return why a process has to be started plainly, "" if a template may be asked."""
    if not sys.platform.startswith("linux"):
        return "templates need Linux"
    if node.preload is None:
        return "`preload` is false for it"
    if node.is_shell:
        return "it is a shell command"
    if program_of(command) is None:
        return f"it does not run {sys.executable} with the option -u alone"
    return ""


def fork_request(
    node: NodeSpec,
    command: Sequence[str],
    environment: Mapping[str, str],
    directory: str,
    *,
    is_encrypted: bool = False,
) -> ForkRequest:
    """Return the request for the process of a node. ``is_encrypted``: links to other machines are."""
    modules = [_ARRAYS] if _has_messages(node) else []
    if is_encrypted and node.outputs:
        modules.append(_SEALING)
    return ForkRequest(
        command=tuple(map(os.fsencode, command)),
        environment=tuple(os.fsencode(f"{name}={value}") for name, value in environment.items()),
        directory=directory,
        scheduling=_scheduling(node),
        umask=umask(),
        limits={number: resource.getrlimit(number) for number in LIMITS},
        ignored=ignored_signals(),
        context=context(),
        modules=tuple(modules),
        preload=tuple((package.name, package.place) for package in node.preload or ()),
    )


def _has_messages(node: NodeSpec) -> bool:
    return bool(node.outputs) or any(not isinstance(item.source, TimerSource) for item in node.inputs)


def _scheduling(node: NodeSpec) -> Scheduling:
    """Return the scheduling of a node, with the cores of this process where it names none."""
    if node.scheduling.cpu_affinity:
        return node.scheduling
    return structs.replace(node.scheduling, cpu_affinity=tuple(os.sched_getaffinity(0)))
