"""Limits of this machine, and the needs of a run: files, threads, shared memory."""

from __future__ import annotations

import math
import os
import resource
from collections.abc import Iterator
from typing import Final

import msgspec

from dora._paths import SHARED_MEMORY
from dora.dataflow.layout import Plan, RunContext
from dora.dataflow.model import Dataflow
from dora.dataflow.plan import MAX_TAPS, RECORDER_QUEUE, SPARE_RECEIVERS, plan
from dora.errors import DoraError
from dora.transport.engines import ENGINES, files_of
from dora.transport.open_files import allow_files, hard_limit
from dora.transport.shm.room import free_bytes
from dora.wire.node_config import EngineName, InputConfig, NodeConfig, OutputConfig

# Of the daemon: two pipes, a socket, a process and a doorbell of each node, one more for a node from a
# template; and what it needs for itself.
_FILES_PER_NODE: Final = 6
_DAEMON_FILES: Final = 64
_CGROUPS: Final = "/sys/fs/cgroup"
# Of a node that has imported NumPy and pyarrow, besides OpenBLAS's: one for each processor.
_THREADS: Final = 2
NODE_MEMORY: Final = 25 << 20  # of a node that has imported pyarrow


class Needs(msgspec.Struct, frozen=True):
    """Needs of the processes of a run on this machine."""

    nodes: int  # that dora starts
    daemon_files: int
    node_files: int  # of the node with the most links
    node: str  # its id
    threads: int  # of all nodes
    shared_memory: int  # bytes of the whole run, before the first large message


def needs_of(planned: Plan, context: RunContext, dataflow: Dataflow) -> Needs:
    """Return what the planned run of a dataflow needs on this machine."""
    engine = ENGINES[context.engine]
    here = [c for name, c in planned.configs.items() if not context.placement.elsewhere(name)]
    dynamic = {node.id for node in dataflow.nodes if node.is_dynamic}
    started = [config for config in here if config.node_id not in dynamic]
    largest = max(here, key=files_of, default=None)
    credit = sum(bool(output.credit_bell) for config in here for output in config.outputs)
    return Needs(
        nodes=len(started),
        daemon_files=_DAEMON_FILES + _FILES_PER_NODE * len(here) + credit,
        node_files=0 if largest is None else files_of(largest),
        node="" if largest is None else largest.node_id,
        threads=len(started) * (_THREADS + (os.cpu_count() or 1)),
        shared_memory=engine.memory_to_start + sum(map(engine.shared_memory_of, here)),
    )


def needs_of_file(dataflow: Dataflow, engine: EngineName) -> Needs:
    """Return what a dataflow needs if all its nodes run on this machine, with an engine."""
    context = RunContext(dataflow_id="0" * 36, run_dir="", prefix="", board="", engine=engine)
    return needs_of(plan(dataflow, context), context, dataflow)


def shortages(needs: Needs) -> Iterator[str]:
    """Yield a sentence for each limit of this machine that is too low, with the figure and the remedy."""
    if (hard := hard_limit()) is not None:
        files = max(needs.daemon_files, needs.node_files)
        whose = "the daemon" if files == needs.daemon_files else f"node `{needs.node}`"
        if files > hard:
            yield (
                f"{whose} needs about {files:,} open files, and the hard limit is {hard:,}; raise it "
                f"(`ulimit -n {files}` as root, LimitNOFILE={files} in a systemd service, "
                f"docker run --ulimit nofile={files})"
            )
    limit, used, mend = _thread_limit(needs.threads)
    if limit is not None and used + needs.threads > limit:
        yield (
            f"{needs.nodes:,} nodes need about {needs.threads:,} threads, and this machine allows "
            f"{limit:,}, of which {used:,} are in use; {mend}"
        )
    free = free_bytes()
    if free is not None and free < needs.shared_memory:
        wanted = needs.shared_memory / 2**20
        yield (
            f"its links need about {wanted:,.0f} MiB of {SHARED_MEMORY}, and {free / 2**20:,.0f} MiB are "
            f"free; enlarge it (mount -o remount,size={2 * wanted:.0f}M {SHARED_MEMORY}; "
            f"docker run --shm-size={2 * wanted:.0f}m)"
        )


def prepare_limits(needs: Needs) -> None:
    """Raise the limits of this process as far as a run needs it; raises `DoraError` if that is too low."""
    for sentence in shortages(needs):
        raise DoraError(f"the dataflow is too large for the limits of this machine: {sentence}")
    allow_files(needs.daemon_files)


def _thread_limit(needed: float = math.inf) -> tuple[int | None, int, str]:
    """Return the lowest limit of threads, how many there are, and how to raise it (Linux).

    ``needed``: how many more are wanted. Where so many fit in any case, the count may be too high.
    """
    found: list[tuple[int, int, str]] = []
    for folder in _process_groups():
        if (limit := _number(f"{folder}/pids.max")) is not None:
            used = _number(f"{folder}/pids.current") or 0
            found.append((limit, used, "raise pids.max of its cgroup (TasksMax=, docker run --pids-limit)"))
    if (limit := _number("/proc/sys/kernel/threads-max")) is not None:
        used = _running_threads()
        of_user = resource.getrlimit(resource.RLIMIT_NPROC)[0]
        if of_user != resource.RLIM_INFINITY and os.getuid():  # it does not hold for root
            # They are counted only if the threads of all users would be too many: that takes milliseconds.
            mine = used if used + needed <= of_user else _threads_of(os.getuid())
            found.append((of_user, mine, "raise it (`ulimit -u`, LimitNPROC= in a systemd service)"))
        found.append((limit, used, f"raise it (sysctl kernel.threads-max={2 * limit})"))
        if (numbers := _number("/proc/sys/kernel/pid_max")) is not None:
            found.append((numbers, used, "raise it (sysctl kernel.pid_max=4194304)"))
    return min(found, key=lambda each: each[0] - each[1], default=(None, 0, ""))


def _running_threads() -> int:
    try:
        with open("/proc/loadavg", encoding="ascii") as file:
            return int(file.read().split()[3].partition("/")[2])
    except (OSError, ValueError, IndexError):
        return 0  # not known: the kernel may still refuse a thread


def _threads_of(user: int) -> int:
    """Return how many threads of a user there are on this machine (Linux)."""
    count = 0
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{name}").st_uid == user:
                with open(f"/proc/{name}/stat", "rb") as file:
                    count += int(file.read().rpartition(b")")[2].split()[17])  # proc(5)
        except OSError:
            continue  # it has just ended
    return count


def _process_groups() -> Iterator[str]:
    """Yield the folders of the cgroups that may limit the number of processes, of either version.

    The limit of a cgroup also holds for those in it, so those above this process's are among them.
    """
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except (OSError, ValueError):
        return  # there are no cgroups
    for _, controllers, path in lines:
        if not controllers or "pids" in controllers.split(","):
            root = _CGROUPS if not controllers else f"{_CGROUPS}/pids"
            folder = path.rstrip("/")
            while folder:
                yield root + folder
                folder = folder.rpartition("/")[0]
            yield root


def _number(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):  # "max"
        return None


def room(engine: EngineName) -> tuple[int, str]:
    """Return how many nodes in a chain could run here with an engine, and which limit that is."""
    found: list[tuple[int, str]] = []
    if (hard := hard_limit()) is not None:
        found.append(((hard - _DAEMON_FILES) // _FILES_PER_NODE, f"{hard:,} open files (ulimit -Hn)"))
    limit, used, _ = _thread_limit()
    if limit is not None:
        each = _THREADS + (os.cpu_count() or 1)
        found.append(((limit - used) // each, f"{limit - used:,} threads, {each} for each"))
    if (free := free_bytes()) is not None:
        needs = ENGINES[engine]
        if each := needs.shared_memory_of(_node_of_a_chain(engine)):
            found.append(((free - needs.memory_to_start) // each, f"{free >> 20:,} MiB in {SHARED_MEMORY}"))
    if (memory := _available_memory()) is not None:
        found.append(
            (memory // NODE_MEMORY, f"{memory >> 20:,} MiB of memory, {NODE_MEMORY >> 20} for each")
        )
    number, reason = min(found, default=(0, ""))
    return max(0, number), reason


def _node_of_a_chain(engine: EngineName) -> NodeConfig:
    receivers = 1 + SPARE_RECEIVERS + MAX_TAPS
    link = InputConfig("in", "link", "", max_queue_size=RECORDER_QUEUE, max_receivers=receivers)
    return NodeConfig("", "", engine, "", "", "", 0, "", inputs=[link], outputs=[OutputConfig("out")])


def _available_memory() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) << 10
    except (OSError, ValueError):
        pass
    return None
