"""The file of a latched output: whole messages at any moment, whatever happens to its sender."""

from __future__ import annotations

import errno
import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dora.transport import latch as module
from dora.transport.latch import LatchFile, LatchInMemory, consecutive, latch_path, read_entries, read_latch
from dora.wire.message import BODY_SIZE, Encoding, pack_head
from dora.wire.output_rules import LatchRule


def message(number: int, size: int = 8) -> bytes:
    body = bytes([number % 251]) * size
    return pack_head(Encoding.PLAIN, b"C", b"", size, number, 1, body)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return latch_path(str(tmp_path / "board"), 3)


def numbers(path: str) -> list[int]:
    """Return the numbers in a latch, after a look at each message."""
    found = read_latch(path)
    for entry in found:
        size = entry.header[BODY_SIZE]
        data = dict(read_entries(path))[entry.sequence]
        assert data == message(entry.sequence, size)
    return [entry.sequence for entry in found]


def test_the_newest_messages_are_kept(path: str) -> None:
    latch = LatchFile(path, LatchRule(3), "out")
    assert numbers(path) == []
    for number in range(1, 10):
        latch.write(number, message(number))
        assert numbers(path) == list(range(max(1, number - 2), number + 1))


@pytest.mark.lengthy
@given(st.lists(st.sampled_from([0, 100, 5_000, 70_000, 300_000]), max_size=12), st.integers(1, 4))
def test_messages_may_have_any_size(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], depth: int
) -> None:
    path = str(tmp_path_factory.mktemp("latch") / "latch-1")
    latch = LatchFile(path, LatchRule(depth), "out")
    for number, size in enumerate(sizes, 1):
        latch.write(number, message(number, size))
        assert numbers(path) == list(range(max(1, number - depth + 1), number + 1))
    assert os.listdir(os.path.dirname(path)) == ["latch-1"]


@pytest.mark.parametrize("depth", [1, 2, 5, 8])
def test_a_new_process_goes_on_where_it_is_asked_to(path: str, depth: int) -> None:
    latch = LatchFile(path, LatchRule(5, survive_restart=True), "out")
    for number in range(1, 8):
        latch.write(number, message(number, 10_000))
    again = LatchFile(path, LatchRule(depth, survive_restart=True), "out")
    assert numbers(path) == list(range(max(3, 8 - depth), 8))
    again.write(8, message(8))
    assert numbers(path)[-1] == 8
    LatchFile(path, LatchRule(depth), "out")
    assert numbers(path) == []


def test_a_sender_that_dies_in_a_message_leaves_the_ones_before(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    latch = LatchFile(path, LatchRule(2), "out")
    for number in range(1, 4):
        latch.write(number, message(number))
    for size in (8, 1_000_000):  # the second one needs a larger file
        with monkeypatch.context() as patch:
            write = os.pwrite

            def half(fd: int, data: bytes, at: int, write=write) -> int:  # type: ignore[no-untyped-def]
                write(fd, bytes(data)[: len(data) // 2], at)
                raise SystemExit

            patch.setattr(module.os, "pwrite", half)
            with pytest.raises(SystemExit):
                latch.write(4, message(4, size))
        assert numbers(path) == [2, 3]
    again = LatchFile(path, LatchRule(2, survive_restart=True), "out")
    assert numbers(path) == [2, 3]
    again.write(4, message(4))
    assert numbers(path) == [3, 4]


def test_a_reader_gets_whole_messages_while_others_are_written(path: str) -> None:
    latch = LatchFile(path, LatchRule(3), "out")
    is_over = threading.Event()

    def write_next(number: int) -> int:
        latch.write(number, message(number, 8 if number % 2 else 20_000))
        return number + 1

    number = write_next(write_next(write_next(1)))

    def write(number: int = number) -> None:
        while not is_over.is_set():
            number = write_next(number)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(300):
            entries = read_entries(path)
            assert len(entries) == 3
            assert [number for number, _ in consecutive(entries)] == [number for number, _ in entries]
            for number, data in entries:
                assert data == message(number, 8 if number % 2 else 20_000)
    finally:
        is_over.set()
        thread.join()


@pytest.mark.processes
def test_a_message_without_room_is_not_kept(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = str(small_disk / "latch-1")
    latch = LatchFile(path, LatchRule(2), "out")
    latch.write(1, message(1))
    with caplog.at_level(logging.WARNING, "dora.transport"):
        latch.write(2, message(2, 1_000_000))
        latch.write(3, message(3, 1_000_000))
    (record,) = caplog.records
    assert "output `out`: a message of 1000064 bytes is not kept for receivers" in record.message
    assert numbers(path) == [1]
    latch.write(4, message(4))
    assert numbers(path) == [4]


def test_messages_that_are_forgotten_do_not_come_back(path: str) -> None:
    latch = LatchFile(path, LatchRule(3), "out")
    for number in range(1, 6):
        latch.write(number, message(number))
    latch.forget(4)
    assert numbers(path) == [5]
    latch.forget(7)
    assert numbers(path) == []
    for number in range(6, 10):
        latch.write(number, message(number, 10_000))
        assert numbers(path) == list(range(8, number + 1))
    latch.forget(4)
    assert numbers(path) == [8, 9]
    latch.forget(8)
    latch.forget(4)
    latch.write(8, message(8))
    assert numbers(path) == [9]


def test_a_place_has_no_number_while_it_is_written(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    latch = LatchFile(path, LatchRule(1), "out")  # three places
    for number in range(1, 4):
        latch.write(number, message(number))
    seen: list[list[int]] = []
    pwrite = os.pwrite

    def watched(*arguments: Any) -> int:
        seen.append(list(latch._places._words[2:8:2]))
        return pwrite(*arguments)

    monkeypatch.setattr(os, "pwrite", watched)
    latch.write(4, message(4))
    assert seen == [[3, 0, 2]]
    assert list(latch._places._words[2:8:2]) == [3, 4, 2]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="only Linux tells which files are open")
def test_a_latch_that_grows_has_one_file_open(path: str) -> None:
    latch = LatchFile(path, LatchRule(1), "out")
    before = len(os.listdir("/proc/self/fd"))
    for number in range(1, 6):
        latch.write(number, message(number, 10_000 << number))
    assert len(os.listdir("/proc/self/fd")) == before


def test_messages_are_forgotten_without_more_memory(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    latch = LatchFile(path, LatchRule(3), "out")
    for number in range(1, 4):
        latch.write(number, message(number))

    def is_full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module.os, "pwrite", is_full)
    latch.forget(2)
    assert numbers(path) == [3]


@pytest.mark.parametrize("content", [b"", b"short", bytes(16), b"\xff" * 8192])
def test_a_file_that_is_no_latch_is_empty(path: str, content: bytes) -> None:
    Path(path).write_bytes(content)
    os.chmod(path, 0o600)
    assert read_latch(path) == []


def test_nodes_of_one_process_keep_messages_in_memory() -> None:
    latch = LatchInMemory(LatchRule(2), None)
    for number in range(1, 4):
        latch.write(number, message(number))
    assert [entry.sequence for entry in latch.read()] == [2, 3]
    assert [e.sequence for e in LatchInMemory(LatchRule(1, survive_restart=True), latch).read()] == [3]
    assert LatchInMemory(LatchRule(1), latch).read() == []
