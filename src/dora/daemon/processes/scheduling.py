"""Real-time settings of processes: cores, nice value, scheduling policy, memory that is not swapped.

The kernel keeps all but the last for each thread, and a new thread or process inherits them. So they are
set before a process runs its program: plainly started, it inherits them from a thread of the daemon that
exists only for this; forked by a template process, it sets them itself.

Whether the system allows them is found out by trying, also in a thread of its own. That counts whatever may
forbid it: limits, capabilities, control groups, filters of system calls.
"""

from __future__ import annotations

import os
import resource
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final, TypeVar

from dora.dataflow.model import Dataflow, NodeSpec, Scheduling
from dora.errors import DoraError

_HAS: Final = sys.platform.startswith("linux")
_MAX_CORES: Final = 4096  # as in the field table
_CAP_IPC_LOCK: Final = 1 << 14
_UNLIMITED: Final = resource.RLIM_INFINITY
_LINUX_ONLY: Final = "needs Linux, and this system is another one; leave it out"

T = TypeVar("T")


def set_scheduling(wanted: Scheduling) -> None:
    """Set it for the calling thread; raises ``OSError`` whose text is what is wrong, and the mend."""
    if not _HAS:
        return  # `cpu_affinity` has no effect there, and the rest was refused
    if wanted.cpu_affinity:
        _set_cores(set(wanted.cpu_affinity))
    if (scheduler := wanted.scheduler) is not None:
        policy = getattr(os, f"SCHED_{scheduler.name.upper()}")
        try:
            os.sched_setscheduler(0, policy, os.sched_param(scheduler.priority))
        except OSError as error:
            why = _why(error, _rtprio(scheduler.priority))
            raise OSError(f"`scheduler: {scheduler}` is not allowed here: {why}") from error
    if wanted.nice is not None:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, wanted.nice)
        except OSError as error:
            raise OSError(
                f"`nice: {wanted.nice}` is not allowed here: {_why(error, _nice(wanted.nice))}"
            ) from error


def _set_cores(cores: set[int]) -> None:
    """Set the cores; raises ``OSError`` if one of them cannot be used."""
    try:
        os.sched_setaffinity(0, cores)
        if os.sched_getaffinity(0) == cores:
            return
    except OSError:
        pass  # none of them can be used
    # The kernel leaves out the cores that this process may not use.
    os.sched_setaffinity(0, range(_MAX_CORES))
    usable = os.sched_getaffinity(0)
    raise OSError(
        f"`cpu_affinity: {sorted(cores)}` is not possible here: this process may not use core "
        f"{_ranges(cores - usable)}, only {_ranges(usable)}"
    )


def _ranges(cores: Iterable[int]) -> str:
    """Return cores as a text.

    >>> _ranges([0, 1, 2, 5])
    '0-2, 5'
    """
    ranges: list[list[int]] = []
    for core in sorted(cores):
        if ranges and core == ranges[-1][1] + 1:
            ranges[-1][1] = core
        else:
            ranges.append([core, core])
    return ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in ranges)


def _rtprio(priority: int) -> tuple[bool, str]:
    """Return whether the limit allows a real-time priority; the limit, and how to raise it."""
    limit = resource.getrlimit(resource.RLIMIT_RTPRIO)[0]
    return _is_within(priority, limit), (
        f"RLIMIT_RTPRIO is {limit} and dora has no CAP_SYS_NICE; raise it (`ulimit -r {priority}` as "
        f"root, LimitRTPRIO={priority} in a systemd service, docker run --ulimit rtprio={priority} "
        "--cap-add SYS_NICE)"
    )


def _nice(nice: int) -> tuple[bool, str]:
    """Return whether the limit allows a nice value; the limit, and how to raise it."""
    limit = resource.getrlimit(resource.RLIMIT_NICE)[0]
    needed = 20 - nice
    return _is_within(needed, limit), (
        f"RLIMIT_NICE is {limit}, {needed} are needed, and dora has no CAP_SYS_NICE; raise it "
        f"(`ulimit -e {needed}` as root, LimitNICE={nice:+} in a systemd service, docker run --cap-add "
        "SYS_NICE)"
    )


def _is_within(needed: int, limit: int) -> bool:
    return limit == _UNLIMITED or needed <= limit


def _why(error: OSError, limit: tuple[bool, str]) -> str:
    allowed, text = limit
    if not isinstance(error, PermissionError):
        return f"{error.strerror}"
    if not allowed:
        return text
    return (
        f"{error.strerror}, though the limit allows it; a control group without real-time scheduling "
        "(cpu.rt_runtime_us) or a filter of system calls forbids it"
    )


def in_own_thread(function: Callable[[], T]) -> T:
    """Call a function in a new thread, and return what it returns or raise what it raises.

    Settings of its thread end with it, and live on in processes that it starts.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(function())
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    thread = threading.Thread(target=call, name="dora-scheduling")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


# --------------------------------------------------------------------------- before a start


def check_scheduling(dataflow: Dataflow, elsewhere: Callable[[str], object]) -> None:
    """Raise `DoraError` if the system does not allow the settings of the nodes of this machine."""
    if sentences := [*refusals(dataflow, elsewhere)]:
        raise DoraError("\n".join(sentences))


def refusals(dataflow: Dataflow, elsewhere: Callable[[str], object]) -> Iterator[str]:
    """Yield a sentence for each setting of a node of this machine that the system does not allow.

    ``elsewhere`` returns whether a node is on another machine.
    """
    for node in dataflow.nodes:
        if not node.is_dynamic and not elsewhere(node.id):
            place = f"{node.place}: " if node.place else ""
            yield from (f"{place}node `{node.id}`: {reason}" for reason in _refusals(node))


def _refusals(node: NodeSpec) -> Iterator[str]:
    if not _HAS:
        used = {"nice": node.nice, "scheduler": node.scheduler, "lock_memory": node.lock_memory or None}
        yield from (f"`{name}` {_LINUX_ONLY}" for name, value in used.items() if value is not None)
        return
    wanted = (
        Scheduling(node.cpu_affinity),
        Scheduling(nice=node.nice),
        Scheduling(scheduler=node.scheduler),
    )
    for part in wanted:
        if part != Scheduling():
            try:
                in_own_thread(partial(set_scheduling, part))
            except OSError as error:
                yield str(error)
    if node.lock_memory and (reason := _lock_refusal()):
        yield reason


def may_lock_memory() -> bool:
    """Return whether a process may lock all its memory.

    Every process maps far more than it uses, so a limit in bytes would be met by the first large mapping.
    """
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    return limit == _UNLIMITED or bool(_effective_capabilities() & _CAP_IPC_LOCK)


def _lock_refusal() -> str:
    if may_lock_memory():
        return ""
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    return (
        f"`lock_memory` is not allowed here: RLIMIT_MEMLOCK is {limit:,} bytes and the daemon has no "
        "CAP_IPC_LOCK; raise it (`ulimit -l unlimited` as root, LimitMEMLOCK=infinity in a systemd "
        "service, docker run --ulimit memlock=-1)"
    )


def _effective_capabilities() -> int:
    try:
        with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
            line = next(line for line in file if line.startswith("CapEff:"))
    except (OSError, StopIteration):
        return 0
    return int(line.split()[1], 16)
