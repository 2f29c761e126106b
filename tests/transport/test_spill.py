"""Spill files: what a sender writes for a link whose queue is full, and what it forgets."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from dora.transport import spill
from dora.transport.board import CLOSED, CONNECTED, DROPPED, RECEIVED, STATE, Board
from dora.transport.spill import SpillWriter, spill_folder, take_spilled
from dora.wire.message import Encoding, pack_head
from dora.wire.metadata import encode_metadata
from dora.wire.node_config import LinkConfig

REQUEST = encode_metadata({"request_id": "r"})


def link(slot: int, queue_size: int) -> LinkConfig:
    return LinkConfig(slot=slot, node_slot=0, bell="", consumer="b/in", queue_size=queue_size)


class Sender:
    """Sends requests only, to links that nobody reads unless a test sets what was received."""

    def __init__(self, path: Path, *links: LinkConfig) -> None:
        self.path = str(path)
        self.board = Board.create(f"{path}/board", 4)
        for each in links:
            self.board.set(each.slot, STATE, CONNECTED)
        self.writer = SpillWriter(self.path, self.board)
        self.writer.apply_links(links)
        self.sent = 0

    def send(self, count: int) -> None:
        for _ in range(count):
            self.sent += 1
            message = pack_head(Encoding.PLAIN, b"C", REQUEST, 0, self.sent, 7)
            self.writer.before_send(self.sent, REQUEST, message)

    def files(self, slot: int) -> list[int]:
        try:
            return sorted(int(name) for name in os.listdir(spill_folder(self.path, slot)))
        except FileNotFoundError:
            return []


def test_a_sender_keeps_only_what_a_queue_may_still_push_out(tmp_path: Path) -> None:
    sender = Sender(tmp_path, link(1, 5))
    sender.send(200)
    assert [number for number, *_ in sender.writer.pending] == list(range(196, 201))
    assert sender.files(1) == list(range(1, 196))


def test_a_message_is_written_once_however_long_another_queue_keeps_it(tmp_path: Path) -> None:
    sender = Sender(tmp_path, link(1, 1), link(2, 100))
    sender.send(3)
    taken = take_spilled(spill_folder(sender.path, 1), 0, 3)
    assert [message.sequence for message in taken] == [1, 2]
    sender.send(1)
    assert sender.files(1) == [3]
    assert sender.files(2) == []


def test_files_of_messages_that_came_by_the_queue_after_all_are_removed(tmp_path: Path) -> None:
    sender = Sender(tmp_path, link(1, 2))
    sender.send(10)
    assert sender.files(1) == list(range(1, 9))
    sender.board.set(1, RECEIVED, 5)
    sender.board.set(1, DROPPED, 2)
    sender.send(1)
    assert sender.files(1) == [8, 9]


def test_a_receiver_that_is_not_there_gets_no_files(tmp_path: Path) -> None:
    sender = Sender(tmp_path, link(1, 2), link(2, 2))
    sender.board.set(1, STATE, CLOSED)
    sender.send(10)
    assert sender.files(1) == []
    assert sender.files(2) == list(range(1, 9))


def test_a_new_link_does_not_make_others_get_a_message_twice(tmp_path: Path) -> None:
    sender = Sender(tmp_path, link(1, 1), link(2, 100))
    sender.send(3)
    take_spilled(spill_folder(sender.path, 1), 0, 3)
    sender.writer.apply_links([link(1, 1), link(2, 100), link(3, 1)])
    sender.send(1)
    assert sender.files(1) == [3]


def test_a_file_for_which_there_was_no_room_is_not_left_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullDisk(io.FileIO):
        def write(self, data: Any) -> int:
            super().write(data[:60])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    sender = Sender(tmp_path, link(1, 1))
    with monkeypatch.context() as patch:
        patch.setattr(spill, "open", lambda path, _: FullDisk(path, "w"), raising=False)
        sender.send(3)
    assert sender.files(1) == []
    sender.send(1)
    assert sender.files(1) == [3]


def test_links_that_lose_nothing_of_an_exchange_by_themselves_need_no_files(tmp_path: Path) -> None:
    sender = Sender(tmp_path)
    waiting = structs.replace(link(1, 1), queue_policy="backpressure")
    declared = structs.replace(link(1, 1), engine_queue_size=1024)
    assert not sender.writer.apply_links([waiting, declared])
    assert sender.writer.apply_links([link(1, 1)])
