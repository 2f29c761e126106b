"""The order of events on its way through a recording: entries, cuts, translated numbers."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_files import message_of

from dora.node.events import Input, Reference, Synced, Tick
from dora.node.interceptors.event_log import EventLog
from dora.node.receive.inbox import timed_out
from dora.recording.mcap.event_order import OrderTail, Translation, first_numbers
from dora.recording.mcap.process_folder import make_folder, remove_folder
from dora.transport.shm.overwriting_ring import OverwritingRing, read_ring
from dora.wire.event_log import Entry, EntryKind, complete_size, entries, pack_entry
from dora.wire.node_config import InputConfig, NodeConfig

if TYPE_CHECKING:
    from dora.node.receive.inbox import Inbox

numbers = st.integers(0, 2**64 - 1)
some_entries = st.lists(
    st.builds(Entry, st.integers(0, 7), st.integers(0, 65535), numbers, numbers, st.binary(max_size=40))
)
BEGIN = pack_entry(EntryKind.BEGIN, 0, 1, 0, msgspec.msgpack.encode({"x": "a/out", "y": "r/op/out"}))


@pytest.mark.lengthy
@given(some_entries, st.integers(0, 60))
def test_entries_come_back_up_to_a_cut(given_: list[Entry], cut: int) -> None:
    data = b"".join(pack_entry(*entry) for entry in given_)
    assert list(entries(data)) == given_
    rest = data[: max(len(data) - cut, 0)]
    found = list(entries(rest))
    assert found == given_[: len(found)]
    assert complete_size(rest) == len(b"".join(pack_entry(*entry) for entry in found))


def message(number: int, time_ns: int = 10) -> bytes:
    return pack_entry(EntryKind.MESSAGE, 0, time_ns, number)


def local(number: int, time_ns: int = 10) -> bytes:
    return pack_entry(EntryKind.LOCAL, 1, time_ns, number)


def test_numbers_are_translated() -> None:
    translation = Translation(lambda _, number: number - 5, 5, 20, from_start=False)
    first = b"".join(translation.of(BEGIN + message(5) + message(6, 4) + message(6)))
    second = b"".join(translation.of(local(30) + local(32) + message(9, 20)))
    assert [(entry.kind, entry.number) for entry in entries(first + second)] == [
        (EntryKind.BEGIN, 0),
        (EntryKind.MESSAGE, 1),
        (EntryKind.LOCAL, 1),
        (EntryKind.LOCAL, 3),
    ]


def test_what_was_latched_comes_first_and_once() -> None:
    translation = Translation(
        lambda _, number: number - 2, 0, 99, from_start=True, latched={"x": [2, 3, 4]}
    )
    found = list(entries(b"".join(translation.of(BEGIN + message(5) + BEGIN + message(6)))))
    assert [(entry.kind, entry.number) for entry in found] == [
        (EntryKind.BEGIN, 0),
        (EntryKind.MESSAGE, 1),
        (EntryKind.MESSAGE, 2),
        (EntryKind.MESSAGE, 3),
        (EntryKind.BEGIN, 0),
        (EntryKind.MESSAGE, 4),
    ]


def test_a_set_whose_leading_message_is_not_sent_is_left_out() -> None:
    translation = Translation(lambda _, number: number - 5, 0, 99, from_start=True)
    without, with_it = (
        pack_entry(EntryKind.SYNC, 0, 10, 0, message(first) + message(second))
        for first, second in ((5, 7), (7, 5))
    )
    _, found = entries(b"".join(translation.of(BEGIN + without + with_it)))
    assert (found.kind, [member.number for member in entries(found.content)]) == (EntryKind.SYNC, [2])


def test_a_whole_recording_keeps_the_numbers_of_values() -> None:
    translation = Translation(lambda _, number: number, 0, 99, from_start=True)
    assert [entry.number for entry in entries(b"".join(translation.of(BEGIN + local(2))))] == [0, 2]


def test_the_lowest_numbers_are_found() -> None:
    found: dict[str, int] = {}
    first_numbers(BEGIN + message(7) + message(8), [], found)
    assert found == {"a/out": 7}


def test_a_tail_gives_whole_entries(tmp_path: Path) -> None:
    tail = OrderTail(str(tmp_path))
    path = Path(tail.directory) / "arm"
    path.write_bytes(BEGIN + message(1)[:10])
    assert list(tail.read()) == [("arm", BEGIN)]
    assert list(tail.read()) == []
    with path.open("ab") as file:
        file.write(message(1)[10:])
    assert list(tail.read()) == [("arm", message(1))]
    tail.close()
    assert not path.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not give back a part of a file")
def test_read_entries_take_no_disk_space_any_more(tmp_path: Path) -> None:
    tail = OrderTail(str(tmp_path))
    path = Path(tail.directory) / "arm"
    piece = message(1) * ((5 << 20) // len(message(1)))
    with path.open("ab") as file:
        file.write(BEGIN + piece)
        file.flush()
        assert list(tail.read()) == [("arm", BEGIN + piece)]
        assert path.stat().st_blocks * 512 < 1 << 20
        file.write(message(2))
        file.flush()
        assert list(tail.read()) == [("arm", message(2))]
    tail.close()


def test_open_logs_survive_the_removal_of_their_folder(tmp_path: Path) -> None:
    tail = OrderTail(str(tmp_path))
    path = Path(tail.directory) / "arm"
    with path.open("wb") as file:
        file.write(BEGIN)
        file.flush()
        assert list(tail.read()) == [("arm", BEGIN)]
        shutil.rmtree(tail.directory)
        file.write(message(1))
        file.flush()
        assert list(tail.read()) == [("arm", message(1))]
    tail.close()


def test_the_folder_of_a_killed_process_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mine, other = Path(make_folder("order")), tmp_path / "dora-order-x"
    left = tmp_path / f"dora-order-{2**22 + 1}-abcdefgh"
    for folder in (left, other):
        folder.mkdir(0o700)
    again = Path(make_folder("order"))
    assert (mine.exists(), again.exists(), other.exists(), left.exists()) == (True, True, True, False)


def test_a_folder_that_another_container_uses_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = make_folder("order")
    used = Path(made).rename(tmp_path / f"dora-order-{2**22 + 1}-abcdefgh")  # no such process is here
    make_folder("order")
    assert used.exists(), "its process holds a lock"
    used.rename(made)
    remove_folder(made)
    Path(made).mkdir(0o700)
    unlocked = Path(made).rename(used)
    make_folder("order")
    assert not unlocked.exists()


def test_a_folder_that_is_removed_is_not_kept_open(tmp_path: Path) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("finds open files in /proc")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        remove_folder(make_folder("order", str(tmp_path)))
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("node_id", ["a", "a.b-c_d"])
def test_ids_of_nodes_are_names_of_files(tmp_path: Path, node_id: str) -> None:
    tail = OrderTail(str(tmp_path))
    (Path(tail.directory) / node_id).write_bytes(BEGIN)
    assert list(tail.read()) == [(node_id, BEGIN)]
    tail.close()


def test_the_first_look_that_finds_nothing_is_in_the_log_at_once(tmp_path: Path) -> None:
    path = tmp_path / "order"
    config = NodeConfig("", "a", "shm", "", "", "", 0, "")
    log = EventLog(config, cast("Inbox", SimpleNamespace()))
    log.write_to(str(path))

    def found() -> list[tuple[int, int]]:
        return [(entry.kind, entry.number) for entry in entries(memoryview(path.read_bytes()))][1:]

    log.found_nothing()
    assert found() == [(EntryKind.NOTHING, 1)]
    log.found_nothing()
    log.found_nothing()
    log.timed_out()
    log.found_nothing()
    assert found() == [
        (EntryKind.NOTHING, 1),
        (EntryKind.NOTHING, 2),
        (EntryKind.TIMEOUT, 0),
        (EntryKind.NOTHING, 1),
    ]
    log.close()


def log_of(inbox: SimpleNamespace) -> EventLog:
    config = NodeConfig("", "a", "shm", "", "", "", 0, "")
    config.inputs = [InputConfig("x", "link", "b/out")]
    return EventLog(config, cast("Inbox", inbox))


def written(data: bytes) -> list[tuple[int, int]]:
    return [(entry.kind, entry.number) for entry in entries(data)]


def test_each_look_that_found_nothing_is_in_the_log_before_the_next_event_and_at_the_end(
    tmp_path: Path,
) -> None:
    path, inbox = tmp_path / "order", SimpleNamespace()
    log = log_of(inbox)
    log.write_to(str(path))
    for _ in range(3):
        log.found_nothing()
    log.take(Input.make("x", message_of(b"x", {}, 7, 1)))
    for _ in range(4):
        log.found_nothing()
    assert inbox.event_log is log
    log.end(str(path))
    assert written(path.read_bytes())[1:] == [
        (EntryKind.NOTHING, 1),
        (EntryKind.NOTHING, 2),
        (EntryKind.MESSAGE, 7),
        (EntryKind.NOTHING, 1),
        (EntryKind.NOTHING, 3),
    ]
    assert inbox.event_log is None


def test_a_log_goes_to_the_black_box_also_after_a_pause_and_to_files_meanwhile(tmp_path: Path) -> None:
    ring, path, inbox = str(tmp_path / "ring"), tmp_path / "order", SimpleNamespace()
    owner = OverwritingRing(ring, 1 << 16, 1 << 16)
    log = log_of(inbox)

    def take(number: int) -> None:
        log.take(Input.make("x", message_of(b"x", {}, number, 1)))

    log.keep(ring)
    take(1)
    log.write_to(str(path))
    take(2)
    log.end(str(path))
    assert inbox.event_log is log, "the black box goes on"
    take(3)
    log._pause()
    assert inbox.event_log is None
    owner._words[4] = 0  # as the writer that pauses does it
    log.keep(ring)
    assert inbox.event_log is log
    assert not owner.is_paused
    take(4)
    kept = written(b"".join(read_ring(ring)))
    assert kept == [(EntryKind.BEGIN, 0), *((EntryKind.MESSAGE, number) for number in (1, 2, 3, 4))]
    assert written(path.read_bytes())[1:] == [(EntryKind.MESSAGE, 2)]


def test_a_log_has_what_a_replay_of_timeouts_ticks_and_values_of_operators_needs(tmp_path: Path) -> None:
    path = tmp_path / "order"
    log = log_of(SimpleNamespace(ports={"x": SimpleNamespace(taken=9)}))
    log.write_to(str(path))
    log.take(timed_out(0.5))  # of a replay: it comes as an event
    log.take(Input.make("x", Tick(5, 3)))
    value, earlier = (Input.make("x", Reference(pa.array([1]), {}, 0)) for _ in range(2))
    log.take(value)
    earlier._number = 4
    log.take(Synced({"x": earlier}))
    log.close()
    timeout, tick, local, sync = list(entries(path.read_bytes()))[1:]
    assert (timeout.kind, tick.kind, tick.number, tick.content) == (
        EntryKind.TIMEOUT,
        EntryKind.TICK,
        5,
        b"3",
    )
    assert (local.kind, local.number) == (EntryKind.LOCAL, 9)
    assert written(bytes(sync.content)) == [(EntryKind.LOCAL, 4)]


def test_a_black_box_that_cannot_be_opened_ends_its_log_and_not_the_node(tmp_path: Path) -> None:
    ring, inbox = tmp_path / "ring", SimpleNamespace()
    ring.write_bytes(b"no ring")
    log = log_of(inbox)
    log.keep(str(ring))
    log.timed_out()
    assert inbox.event_log is None


def test_a_log_that_cannot_be_written_ends_with_one_warning_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = log_of(SimpleNamespace())
    for name in ("full", "good"):
        log.write_to(str(tmp_path / name))
    (full, _), write = log._fds, os.write

    def write_to_a_full_disk(fd: int, data: bytes) -> int:
        if fd == full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data)

    monkeypatch.setattr(os, "write", write_to_a_full_disk)
    for _ in range(2):
        log.timed_out()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(full)
    log.close()
    assert written((tmp_path / "good").read_bytes())[1:] == [(EntryKind.TIMEOUT, 0)] * 2
    assert capsys.readouterr().out.count("the event log is not written any more: No space left") == 1
