"""Heartbeats of a machine's daemon, and what the coordinator answers: its time, for `dora.wire.clock`.

Times are nanoseconds since the Unix epoch.
"""

from __future__ import annotations

import msgspec

from dora.wire.clock import ClockOffset


class Heartbeat(msgspec.Struct, frozen=True, tag=True):
    """The daemon is alive; answered by `HeartbeatAnswer`."""

    sent_ns: int = 0
    clock: ClockOffset | None = None  # how far the coordinator's clock is ahead, once that is known


class HeartbeatAnswer(msgspec.Struct, frozen=True, tag=True):
    """Times of the coordinator's clock, and how far it is ahead of the clocks of all machines."""

    sent_ns: int  # of the heartbeat
    received_ns: int
    answered_ns: int
    clocks: dict[str, ClockOffset]
