"""The event log: which events a node took, in which order, for a replay in the same order.

It is written while a recorder runs. An entry names a message by its number, so it has 24 bytes, and writing
it takes about two microseconds. Each entry is written at once, so the log of a killed node is complete. A
plainly started node imports this module when it is asked for a log.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec

from dora._ownership import UnsafeFile, open_own
from dora.node.events import Error, Event, Input, Reload, Synced, Text, Tick
from dora.node.external import External
from dora.node.log import write_log
from dora.node.receive.inbox import Inbox
from dora.node.receive.safe_state import SafeValue
from dora.node.send import output
from dora.transport.shm.overwriting_ring import OverwritingWriter
from dora.wire.event_log import EntryKind, pack_entry
from dora.wire.message import SEQUENCE, Message
from dora.wire.node_config import NodeConfig

_encode = msgspec.msgpack.Encoder(enc_hook=str).encode


class EventLog:
    """Appends an entry for each event to any number of files."""

    def __init__(self, config: NodeConfig, inbox: Inbox) -> None:
        """``inbox``: the log is put into it for as long as it writes."""
        self._config = config
        self._inbox = inbox
        self._inputs = {item.id: index for index, item in enumerate(config.inputs)}
        self._files: dict[str, int] = {}
        self._fds: tuple[int, ...] = ()
        self._ring: OverwritingWriter | None = None  # of the black box
        self._ring_path = ""
        self._is_kept = False  # entries go to the ring
        self._empty_polls = 0  # since the last event; the first of them has its entry

    def write_to(self, path: str) -> None:
        """Write to one more file from now on; does nothing for one that is written to already."""
        if path in self._files:
            return
        try:
            fd = open_own(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        except (OSError, UnsafeFile) as error:
            self._warn(error)
            return
        self._files[path] = fd
        self._fds = tuple(self._files.values())
        self._write(fd, self._begin())
        self._inbox.event_log = self

    def keep(self, path: str) -> None:
        """Write to a ring of the black box from now on, also again after a pause."""
        self._ring_path = path
        if not self._is_kept:
            if self._ring is not None:
                self._ring.resume()
            self._is_kept = True
            self._inbox.event_log = self

    def _begin(self) -> bytes:
        inputs = {item.id: item.source for item in self._config.inputs}
        return pack_entry(EntryKind.BEGIN, 0, output._now(), self._config.restart_count, _encode(inputs))

    def _open_ring(self) -> OverwritingWriter | None:
        """Open the ring, with the first entry: of two processes of a node, one takes events at a time."""
        try:
            self._ring = OverwritingWriter(self._ring_path, self._pause)
        except (OSError, UnsafeFile):
            self._pause()  # there was no memory for it
            return None
        self._ring.write(self._begin())
        return self._ring

    def _detach(self) -> None:
        """Leave the inbox if nothing is written."""
        if not self._fds and not self._is_kept:
            self._inbox.event_log = None

    def _pause(self) -> None:
        self._is_kept = False
        self._detach()

    def end(self, path: str) -> None:
        """Close one of the files."""
        self._write_empty_polls()
        fd = self._files.pop(path, -1)
        self._fds = tuple(self._files.values())
        if fd >= 0:
            os.close(fd)
        self._detach()

    def close(self) -> None:
        for path in list(self._files):
            self.end(path)

    def take(self, event: Event) -> None:
        """Note an event, before the program gets it."""
        if self._empty_polls:
            self._write_empty_polls()
        if event.__class__ is Input and self._is_kept and not self._fds:
            # Most events of most nodes; the way below takes twice as long.
            content: Any = event._content
            ring, index = self._ring, self._inputs.get(event["id"])
            if content.__class__ is Message and ring is not None and index is not None:
                ring.write(pack_entry(EntryKind.MESSAGE, index, output._now(), content.header[SEQUENCE]))
                return
        if entry := self._entry(event):
            self._write_all(entry)

    def timed_out(self) -> None:
        """Note that a wait has ended without an event."""
        self._write_empty_polls()
        self._write_all(pack_entry(EntryKind.TIMEOUT, 0, output._now(), 0))

    def found_nothing(self) -> None:
        """Note that a poll has found no event.

        The first one is written at once, as the program acts on what it found: without it, the log of a
        killed node would lack its last poll. The others of a run become one entry.
        """
        self._empty_polls += 1
        if self._empty_polls == 1:
            self._write_all(pack_entry(EntryKind.NOTHING, 0, output._now(), 1))

    def _entry(self, event: Event) -> bytes:
        """Return the entry of an event; b"" for one that no replay can repeat."""
        if not isinstance(event, Input):
            if isinstance(event, Reload | External):  # a replay runs its own code, and no other program
                return b""
            if isinstance(event, Error) and event.is_timeout:  # from the event log that a replay follows
                return pack_entry(EntryKind.TIMEOUT, 0, output._now(), 0)
            if isinstance(event, Synced):
                return self._set(event)
            return pack_entry(EntryKind.EVENT, 0, output._now(), 0, _encode(dict(event)))
        return self._message(event)

    def _message(self, event: Input, input_id: str = "", number: int = 0) -> bytes:
        """Return the entry of a message; ``number`` counts values from an operator of this process."""
        content: Any = event._content
        index = self._inputs.get(input_id or event["id"])
        if index is None:  # an input that was connected while the dataflow ran
            return b""
        if content.__class__ is SafeValue:
            reason = content.reason.encode()
            return pack_entry(EntryKind.SAFE, index, output._now(), content.time_ns, reason)
        match content:
            case Message():
                return pack_entry(EntryKind.MESSAGE, index, output._now(), content.sequence)
            case Tick():
                missed = str(content.missed).encode() if content.missed else b""
                return pack_entry(EntryKind.TICK, index, output._now(), content.time_ns, missed)
            case Text():
                return pack_entry(
                    EntryKind.TEXT, index, output._now(), content.time_ns, content.text.encode()
                )
        port = self._inbox.ports[input_id or event["id"]]
        number = number or port.taken
        return pack_entry(EntryKind.LOCAL, index, output._now(), number)

    def _set(self, event: Synced) -> bytes:
        """Return the entry of a set and of its messages; b"" if the leading message has none."""
        index = self._inputs.get(event["id"])
        if index is None:
            return b""
        content = b"".join(
            self._message(item, input_id, getattr(item, "_number", 0))
            for input_id in event["inputs"]
            for item in event.history(input_id)
        )
        return pack_entry(EntryKind.SYNC, index, output._now(), 0, content)

    def _write_empty_polls(self) -> None:
        further, self._empty_polls = self._empty_polls - 1, 0
        if further > 0:
            self._write_all(pack_entry(EntryKind.NOTHING, 0, output._now(), further))

    def _write_all(self, entry: bytes) -> None:
        if self._is_kept:
            ring = self._ring or self._open_ring()
            if ring is not None:
                ring.write(entry)
        for fd in self._fds:
            self._write(fd, entry)

    def _write(self, fd: int, entry: bytes) -> None:
        try:
            os.write(fd, entry)
        except OSError as error:
            self._warn(error)
            for path, other in list(self._files.items()):
                if other == fd:
                    del self._files[path]
                    os.close(fd)
            self._fds = tuple(self._files.values())

    def _warn(self, error: OSError | UnsafeFile) -> None:
        reason = error.strerror if isinstance(error, OSError) else error
        text = f"the event log is not written any more: {reason}"
        write_log(self._config.node_id, "warn", text)
