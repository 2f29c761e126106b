"""``dora doctor``: check the installation and the machine."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import click

from dora._paths import PACKAGE, SHARED_MEMORY, choose_root
from dora._version import __implementation__
from dora.cli.completion import dataflow_files
from dora.cli.coordinator import coordinator_options
from dora.cli.tables import counted
from dora.cluster.client import Client, Unreachable
from dora.daemon.options import LocalRunOptions, RunOptions, choose_engine
from dora.errors import DoraError
from dora.wire.counters import NODE_COUNTERS
from dora.wire.node_status import StatusWord

if TYPE_CHECKING:
    from dora.dataflow.model import Dataflow


_LONGEST_RUN: Final = 180.0  # seconds, of two nodes; a slow core that others use takes a minute
_PICTURE: Final = 1920 * 1080 * 3  # bytes
_PLENTY: Final = 128 << 20  # of shared memory: two full queues of such pictures


class Finding(NamedTuple):
    """One result of a check."""

    level: Literal["PASS", "WARN", "FAIL"]
    text: str


@click.command()
@click.option(
    "--dataflow",
    "dataflow",
    metavar="FILE",
    shell_complete=dataflow_files,
    help="Also check a dataflow file, that the programs of its nodes exist, and how each node starts.",
)
@coordinator_options
def doctor(dataflow: str | None, client: Client) -> int:
    """Check the installation and this machine.

    Checks versions and libraries, shared memory, uv, the coordinator and its machines, and the nodes that
    run here; and runs a dataflow of two nodes. Shows the temperature of a board, and whether it is slowed
    down by heat or lack of power. The exit status is 1 if a check failed. A warning is about something that
    only some dataflows need.
    """
    failed = 0
    checks: list[Callable[[], Iterator[Finding]]] = [
        _installation,
        _upstream,
        _libraries,
        _engines,
        _ros2,
        _node_packages,
        _folders,
        _hardware,
        _installers,
        lambda: _coordinator(client),
        _nodes,
        _round_trip,
    ]
    if dataflow is not None:
        checks.append(lambda: _dataflow(dataflow))
    for check in checks:
        for finding in check():
            click.echo(f"  {finding.level}  {finding.text}")
            failed += finding.level == "FAIL"
    if failed:
        click.echo(f"{failed} check(s) failed", err=True)
    return 1 if failed else 0


def _installation() -> Iterator[Finding]:
    folder = PACKAGE
    yield Finding("PASS", f"{__implementation__} in {folder}")
    system = f"{platform.system()} {platform.machine()}"
    yield Finding("PASS", f"Python {platform.python_version()} at {sys.executable}, {system}")


def _upstream() -> Iterator[Finding]:
    from dora.daemon.build.shadowing import is_displaced, mend

    if is_displaced():
        yield Finding("FAIL", f"dora-rs is installed over this dora; mend it with\n        {mend()}")
    else:
        yield Finding("PASS", "dora-rs is not installed over this dora")


def _libraries() -> Iterator[Finding]:
    from importlib.metadata import version

    from dora.daemon.build.pip import faults
    from dora.daemon.build.shadowing import NAME

    wrong = [str(fault) for fault in faults([NAME])]
    for name in ("numpy", "pyarrow"):
        try:
            import_module(name)
        except ImportError as error:
            wrong.append(f"{name} cannot be imported: {str(error).splitlines()[0]}")
        else:
            yield Finding("PASS", f"{name} {version(name)}")
    for fault in wrong:
        yield Finding("FAIL", fault)


def _engines() -> Iterator[Finding]:
    from importlib.metadata import version

    try:
        import_module("iceoryx2")
    except ModuleNotFoundError:
        pass  # it has no wheel for this machine
    except ImportError as error:
        yield Finding("FAIL", f"iceoryx2 cannot be imported: {error}")
    else:
        yield Finding("PASS", f"iceoryx2 {version('iceoryx2')}")
    try:
        engine = choose_engine(RunOptions())
    except DoraError as error:
        yield Finding("FAIL", str(error))
        return
    yield Finding("PASS", f"messages go through shared memory, by the engine {engine}")


def _ros2() -> Iterator[Finding]:
    """Say which engines of ROS 2 are here; nothing without the extra, which few need."""
    from dora.ros2.choose import choose, engines_here

    found = ", ".join(engines_here())
    if not found:
        return
    try:
        choice = choose()
    except DoraError as error:
        yield Finding("WARN", f"ROS 2: there is {found}; {error}")
    else:
        yield Finding("PASS", f"ROS 2: there is {found}; by default {choice.engine}: {choice.reason}")


def _node_packages() -> Iterator[Finding]:
    """Check installed node packages, which are those that require ``dora-rs``."""
    from importlib.metadata import distributions

    from dora.daemon.build.pip import faults

    count = 0
    for package in distributions():
        if not any(line.startswith("dora-rs") for line in package.requires or ()):
            continue
        count += 1
        for fault in faults([package.name]):
            yield Finding("WARN", f"the node package {package.name} lacks a requirement: {fault}")
    if count:
        yield Finding("PASS", f"{counted(count, 'node package')} in this environment")


def _folders() -> Iterator[Finding]:
    from dora.daemon.capacity import room
    from dora.daemon.run_directory import check_shared_memory, usable_root
    from dora.transport.engines import ENGINES

    try:
        engine = choose_engine(RunOptions())
        check_shared_memory(ENGINES[engine].memory_to_start)
        yield from _shared_memory()
        nodes, limit = room(engine)
        yield Finding("PASS", f"room for about {nodes:,} more nodes, limited by {limit}")
        reason = choose_root().reason
        yield Finding("PASS", f"sockets and locks in {usable_root()}, because {reason}")
    except DoraError as error:
        yield Finding("FAIL", str(error))


def _shared_memory() -> Iterator[Finding]:
    """Show how much shared memory is free and, where that is little, how many large pictures fit."""
    from dora.transport.shm.room import RESERVE, free_bytes

    free = free_bytes()
    if free is None:
        return
    yield Finding("PASS", f"shared memory: {free / 2**20:.0f} MiB free in {SHARED_MEMORY}")
    if free < _PLENTY:
        pictures = max(0, free - RESERVE) // _PICTURE
        yield Finding(
            "WARN",
            f"that is room for {counted(pictures, 'picture')} of 1920 × 1080 (6.2 MB), and a queue holds "
            f"ten; enlarge {SHARED_MEMORY} (mount -o remount,size=1G {SHARED_MEMORY}; docker run "
            "--shm-size=1g), or shorten the queues of large messages with `queue_size`",
        )


def _hardware() -> Iterator[Finding]:
    """Show temperature, throttling and power, as far as this machine does."""
    from dora.daemon.hardware import read_hardware

    for text, remedy in read_hardware():
        yield Finding("WARN", f"{text}; {remedy}") if remedy else Finding("PASS", text)


def _installers() -> Iterator[Finding]:
    from importlib.util import find_spec

    from dora.daemon.processes.interpreter import find_uv

    uv = find_uv()
    if uv is not None:
        yield Finding("PASS", f"uv at {uv}")
    else:
        yield Finding(
            "WARN", "no uv, which nodes with a Python environment of their own need: pip install uv"
        )
        if find_spec("pip") is None:
            yield Finding(
                "WARN", f"no pip either, so nothing can be installed: {sys.executable} -m ensurepip"
            )


_SENDER = "from dora import Node\nNode().send_output('number', b'x')\n"
_RECEIVER = """
from dora import Node
if [event["type"] for event in Node()][:1] != ["INPUT"]:
    raise SystemExit("nothing was received")
"""
_DATAFLOW = """
nodes:
  - {id: sender, path: sender.py, outputs: [number]}
  - {id: receiver, path: receiver.py, inputs: {number: sender/number}}
"""


def _round_trip() -> Iterator[Finding]:
    """Run a dataflow of two nodes."""
    import io
    import tempfile
    from pathlib import Path

    from dora.api import run_loaded
    from dora.daemon.load_dataflow import load_for_run
    from dora.daemon.logs.display import Display
    from dora.daemon.report import failure_report

    with tempfile.TemporaryDirectory(prefix="dora-doctor-") as folder:
        for name, text in (("sender.py", _SENDER), ("receiver.py", _RECEIVER), ("dataflow.yml", _DATAFLOW)):
            Path(folder, name).write_text(text)
        begun = time.monotonic()
        try:
            options = LocalRunOptions(stop_after=_LONGEST_RUN, black_box=0)
            dataflow = load_for_run(f"{folder}/dataflow.yml", options)
            outcome = run_loaded(dataflow, options, Display(), stream=io.StringIO())
        except DoraError as error:
            yield Finding("FAIL", f"a dataflow of two nodes cannot be run: {error}")
            return
    result = outcome.result
    if result.ok and not result.stopped:
        yield Finding("PASS", f"a dataflow of two nodes ran in {time.monotonic() - begun:.2f} s")
    else:
        report = failure_report(result) or f"it did not end within {_LONGEST_RUN:.0f} s"
        yield Finding("FAIL", f"a dataflow of two nodes failed: {report}")


def _coordinator(client: Client) -> Iterator[Finding]:
    try:
        status = client.status()
        running = client.active()
    except Unreachable:
        yield Finding("WARN", f"no coordinator at {client.where}, which `dora start` needs: dora up")
        return
    except DoraError as error:
        yield Finding("FAIL", f"the coordinator at {client.where} cannot be used: {error}")
        return
    yield Finding("PASS", f"coordinator at {client.where}: dora {status.version}")
    if not status.daemons:
        yield Finding("FAIL", "no daemon is connected to the coordinator; start it with `dora up`")
    names = ", ".join(view.name for view in running)
    count = f"{counted(len(running), 'dataflow')} on the coordinator"
    yield Finding("PASS", count + (f": {names}" if names else ""))
    for machine in status.machines:
        labels = ", ".join(f"{key}={value}" for key, value in sorted(machine.labels.items()))
        described = f"machine `{machine.id}`" + (f" ({labels})" if labels else "")
        if machine.away_since is None:
            yield Finding("PASS", f"{described} is connected")
        else:
            away = time.time() - machine.away_since
            yield Finding("FAIL", f"{described} has been disconnected for {away:.0f} s")


def _nodes() -> Iterator[Finding]:
    """Check the nodes that run on this machine, with or without a coordinator."""
    from dora.daemon.client import name_of, running
    from dora.observe.tap_session import inspect

    found = 0
    silent: list[str] = []
    try:
        runs = list(running(silent.append))
    except DoraError:
        return  # another check reports that the folder cannot be used
    for text in silent:
        yield Finding("WARN", text)
    for run in runs:
        with run:
            try:
                nodes = inspect(run).nodes
            except DoraError:
                continue  # it has just ended
        found += sum(node.status == StatusWord.RUNNING for node in nodes)
        for node in nodes:
            if node.status == StatusWord.FAILED:
                yield Finding("WARN", f"node `{node.id}` of {name_of(run.description)} has failed")
                continue
            for counter in NODE_COUNTERS:
                if counter.is_amber and (count := node.counts.get(counter.name)):
                    text = f"node `{node.id}` of {name_of(run.description)} {counter.describe(count)}"
                    yield Finding("WARN", text)
    if found:
        yield Finding("PASS", f"{counted(found, 'node')} run on this machine")


def _dataflow(path: str) -> Iterator[Finding]:
    from dora.daemon.build.build import missing
    from dora.daemon.capacity import needs_of_file, shortages
    from dora.daemon.load_dataflow import load_dataflow
    from dora.daemon.processes.scheduling import refusals

    try:
        dataflow = load_dataflow(path)
        engine = choose_engine(RunOptions())
    except DoraError as error:
        yield Finding("FAIL", f"{path} cannot be used:\n{error}")
        return
    for warning in (*dataflow.warnings, *dataflow.type_warnings):
        yield Finding("WARN", str(warning))
    problems = [
        *map(str, missing(dataflow)),
        *shortages(needs_of_file(dataflow, engine)),
        *refusals(dataflow, lambda node_id: dataflow.node(node_id).deploy.machine),
    ]
    for problem in problems:
        yield Finding("FAIL", problem)
    if not problems:
        yield Finding("PASS", f"{path}: {counted(len(dataflow.nodes), 'node')}")
        yield from _starts(dataflow)


def _starts(dataflow: Dataflow) -> Iterator[Finding]:
    """Show how each node starts: from the template process, or plainly and why."""
    from dora.daemon.check_starts import find_starts
    from dora.daemon.run import saves_time

    starts = find_starts(dataflow)
    if None in starts.values() and not saves_time(dataflow):
        yield Finding(
            "PASS",
            "for so few nodes, `dora run` has a template process only after `dora up` or with `--preload`; "
            "where there is one:",
        )
    for node, refused in starts.items():
        if refused is None:
            yield Finding("PASS", f"node `{node}` starts from the template process")
        else:
            fault = "".join(f"\n        {line}" for line in refused.fault.splitlines())
            reason = f"{refused.place}: {refused.reason}" if refused.place else refused.reason
            yield Finding("WARN" if fault else "PASS", f"node `{node}` starts plainly: {reason}{fault}")
