"""Writing down in which order a node takes its events, while somebody records the dataflow.

A replay gives them to it in the same order. Which message it was is told by its number, so an entry is 24
bytes, and writing it takes about two microseconds; each is written at once, so that nothing is missing of a
node that is killed. A node that is not recorded does not even import this module.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec

from dora._ownership import UnsafeFile, open_own
from dora.node.events import Error, Event, Input, Reload, Text, Tick
from dora.node.process import log_line, write_line
from dora.node.receive.inbox import Inbox
from dora.node.receive.local_input import LocalInput
from dora.node.send import output
from dora.wire.event_log import EntryKind, pack_entry
from dora.wire.message import Message
from dora.wire.node_config import NodeConfig

_encode = msgspec.msgpack.Encoder(enc_hook=str).encode


class EventLog:
    """Watches an inbox and appends what it gives out to any number of files."""

    def __init__(self, inbox: Inbox, config: NodeConfig) -> None:
        self._config = config
        self._ports = inbox.ports
        self._inputs = {item.id: index for index, item in enumerate(config.inputs)}
        self._files: dict[str, int] = {}
        self._fds: tuple[int, ...] = ()
        self._in_vain = 0
        poll = inbox._poll

        def logged_poll() -> Event | None:
            event = poll()
            if event is not None and self._fds:
                self.add(event)
            return event

        inbox._poll = logged_poll  # type: ignore[method-assign]

    def write_to(self, path: str) -> None:
        """Begin with one more file; one that is written to already stays as it is."""
        if path in self._files:
            return
        try:
            fd = open_own(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        except (OSError, UnsafeFile) as error:
            self._warn(error)
            return
        self._files[path] = fd
        self._fds = tuple(self._files.values())
        inputs = {item.id: item.source for item in self._config.inputs}
        self._write(
            fd, pack_entry(EntryKind.BEGIN, 0, output._now(), self._config.restart_count, _encode(inputs))
        )

    def end(self, path: str) -> None:
        """Write no more to a file."""
        self._write_in_vain()
        fd = self._files.pop(path, -1)
        self._fds = tuple(self._files.values())
        if fd >= 0:
            os.close(fd)

    def close(self) -> None:
        for path in list(self._files):
            self.end(path)

    def add(self, event: Event) -> None:
        """Append an event that was taken."""
        if self._in_vain:
            self._write_in_vain()
        entry = self._entry(event)
        for fd in self._fds if entry else ():
            self._write(fd, entry)

    def timed_out(self) -> None:
        """Note that somebody waited for an event in vain."""
        self._write_in_vain()
        for fd in self._fds:
            self._write(fd, pack_entry(EntryKind.TIMEOUT, 0, output._now(), 0))

    def looked_in_vain(self) -> None:
        """Note that somebody looked for an event, without waiting, and there was none."""
        if self._fds:
            self._in_vain += 1

    def _entry(self, event: Event) -> bytes:
        """Return the entry of an event; b"" for what no replay can repeat."""
        if not isinstance(event, Input):
            if isinstance(event, Reload):  # a replay has code of its own
                return b""
            if isinstance(event, Error) and event.is_timeout:  # from a recorded order
                return pack_entry(EntryKind.TIMEOUT, 0, output._now(), 0)
            return pack_entry(EntryKind.EVENT, 0, output._now(), 0, _encode(dict(event)))
        content: Any = event._content
        index = self._inputs.get(event["id"])
        if index is None:  # an input that was connected while the dataflow ran
            return b""
        match content:
            case Message():
                return pack_entry(EntryKind.MESSAGE, index, output._now(), content.sequence)
            case Tick():
                return pack_entry(EntryKind.TICK, index, output._now(), content.time_ns)
            case Text():
                return pack_entry(
                    EntryKind.TEXT, index, output._now(), content.time_ns, content.text.encode()
                )
        port = self._ports[event["id"]]
        return pack_entry(
            EntryKind.LOCAL, index, output._now(), port.taken if isinstance(port, LocalInput) else 0
        )

    def _write_in_vain(self) -> None:
        if self._in_vain:
            entry = pack_entry(EntryKind.NOTHING, 0, output._now(), self._in_vain)
            self._in_vain = 0
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
        text = f"the order of events is not recorded any more: {reason}"
        write_line(log_line(self._config.node_id, "warn", text))
