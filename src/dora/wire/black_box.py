"""The files of a black box in shared memory: what the daemon and the nodes write, and the saver reads.

::

    /dev/shm/dora_8c3f0a6d91b2_box/
        start               what the saver has to know, a `BlackBoxStart`
        7, 7.large          messages of the output on line 7 of the board: small ones, large ones
        order/camera        the order in which a node took its events, see `dora.wire.event_log`
        run                 `RunEntry`: the journal, and once a second a state

All but ``start`` are rings, see `dora.transport.shm.overwriting_ring`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from dora.wire.decoders import msgpack_decoder
from dora.wire.journal import JournalEntry

START: Final = "start"
RUN: Final = "run"
ORDER: Final = "order"
LARGE: Final = ".large"  # behind the name of an output's ring


class KeptOutputView(msgspec.Struct, frozen=True):
    """An output that the black box keeps."""

    name: str  # "node/output"
    slot: int  # its line on the board
    type: str = ""  # the declared one


class BlackBoxStart(msgspec.Struct, kw_only=True):
    """The dataflow of a black box. Times are nanoseconds since the Unix epoch."""

    dataflow_id: str
    name: str
    file: str | None
    working_dir: str
    machine: str = ""  # "": the dataflow is on one machine
    started: int
    duration_ns: int
    directory: str  # of the files
    log_directory: str
    files: int  # so many stay in the directory
    board: str  # path
    outputs: list[KeptOutputView] = []
    inputs: dict[str, dict[str, str]] = {}  # node → input → source, in the order of the configuration
    descriptor: bytes = b""  # the dataflow as JSON
    model: Any = None  # `dora.dataflow.model.Dataflow`, as plain values


class RawState(msgspec.Struct, frozen=True, tag=True):
    """The figures from which a state of the dataflow is computed."""

    time_ns: int  # since the Unix epoch
    monotonic_ns: int
    inspection: bytes  # msgpack of an `Inspection`
    board: bytes  # its words
    processes: dict[int, tuple[bytes, bytes]]  # process → contents of its files stat and statm in /proc


class JournalState(msgspec.Struct, frozen=True, tag=True):
    """An entry of the journal."""

    entry: JournalEntry


RunEntry = RawState | JournalState
decode_run_entry: Callable[[bytes], RunEntry] = msgpack_decoder(RunEntry)
decode_start: Callable[[bytes], BlackBoxStart] = msgpack_decoder(BlackBoxStart)


class SaveOrder(msgspec.Struct):
    """How to save, an argument of the saver."""

    folder: str
    path: str = ""  # "": a name of the time, in the directory of the run
    reason: str = "saved"  # a part of the name
    asked: bool = False  # by a user: also without a message
    dead: bool = False  # the daemon is gone: nothing more comes, and the folder is removed


class SavedBlackBox(msgspec.Struct, tag=True):
    """A file of a black box."""

    path: str = ""
    messages: int = 0
    lost: int = 0  # known to be missing
    size: int = 0  # bytes
    problem: str = ""  # why there is no file, or not all of it


decode_saved: Callable[[bytes], SavedBlackBox] = msgpack_decoder(SavedBlackBox)
