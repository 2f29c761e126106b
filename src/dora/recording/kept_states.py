"""The states of a dataflow, from what its black box has kept of the board and of its processes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from dora.observe.load import Load
from dora.observe.networks import network_rates
from dora.observe.rates import Counters, rates
from dora.observe.snapshot import Snapshot, node_snapshots
from dora.observe.snapshot_json import as_json
from dora.wire.black_box import RawState
from dora.wire.daemon_protocol import Inspection
from dora.wire.decoders import msgpack_decoder

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_decode = msgpack_decoder(Inspection)


def states_of(name: str, kept: Iterable[RawState]) -> Iterator[tuple[int, bytes]]:
    """Yield the time, in nanoseconds since the Unix epoch, and the JSON of each state but the first."""
    before = None
    for state in kept:
        inspection = _decode(state.inspection)
        words = memoryview(state.board).cast("Q")
        now = msgspec.structs.replace(Counters(inspection, words).read(), time_ns=state.monotonic_ns)
        if before is not None:
            last, last_state = before[0].with_slots_of(now), before[1]
            outputs, links = rates(inspection, last, now)
            seconds = max(now.time_ns - last.time_ns, 1) / 1e9
            nodes = node_snapshots(inspection, name, outputs, links, _loads(last_state, state))
            networks = network_rates(inspection.machine, last.networks, now.networks, seconds)
            yield state.time_ns, as_json(Snapshot(inspection.machine, nodes, links, networks))
        before = now, state


def _loads(before: RawState, state: RawState) -> dict[int, Load]:
    """Return the load of each process, as proc(5) describes its files stat and statm."""
    seconds = max(state.monotonic_ns - before.monotonic_ns, 1) / 1e9
    loads = {}
    for pid, (stat, statm) in state.processes.items():
        cpu = _cpu_seconds(stat)
        last = before.processes.get(pid)
        percent = 0.0 if last is None else max(0.0, (cpu - _cpu_seconds(last[0])) / seconds * 100)
        loads[pid] = Load(percent, int(statm.split()[1]) * _PAGE, cpu_seconds=cpu)
    return loads


def _cpu_seconds(stat: bytes) -> float:
    fields = stat.rpartition(b")")[2].split()  # behind the name, which may have blanks
    return (int(fields[11]) + int(fields[12])) / _TICKS
