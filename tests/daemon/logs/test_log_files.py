"""Log files: their lines, rotation, restarts, and disks that fail."""

import errno
import json
import os

import pytest

from dora.daemon.logs import writer as files
from dora.daemon.logs.entry import LogEntry
from dora.daemon.logs.writer import RETRY_AFTER, LogFiles
from dora.dataflow.model import LogOptions

WHEN = 1_700_000_000_123_456_789


def entry(message="hello", node_id="cam", **more):
    return LogEntry(WHEN, "info", node_id, message, **more)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def messages(path):
    return [line["msg"] for line in lines(path)]


def test_each_node_has_a_log_file_with_the_known_keys(tmp_path):
    log = LogFiles(str(tmp_path / "out" / "id"))
    log.write(entry())
    log.write(entry(target="lens", fields={"a": "b"}, file="x.py", line=3, stream="stderr"))
    log.write(entry(node_id="plot"))
    log.write(entry(node_id=None, stream="daemon"))
    log.close()
    folder = tmp_path / "out" / "id"
    assert sorted(path.name for path in folder.iterdir()) == [
        "log_cam.jsonl",
        "log_dora.jsonl",
        "log_plot.jsonl",
    ]
    first = {
        "ts": "2023-11-14T22:13:20.123Z",
        "level": "info",
        "node": "cam",
        "stream": "stdout",
        "msg": "hello",
    }
    rest = {"target": "lens", "fields": {"a": "b"}, "file": "x.py", "line": 3}
    assert lines(folder / "log_cam.jsonl") == [first, {**first, "stream": "stderr", **rest}]


def test_the_first_line_of_each_log_file_names_the_dataflow(tmp_path):
    size = len(files.file_record(entry("0"), "arm"))
    options = {"cam": LogOptions(max_log_size=size, max_rotated_files=2)}
    for message in ("0", "1"):
        log = LogFiles(str(tmp_path), options, dataflow="arm")
        log.write(entry(message))
        log.write(entry(message, node_id="plot"))
        log.close()
    assert [line.get("dataflow") for line in lines(tmp_path / "log_plot.jsonl")] == ["arm", None]
    for name in ("log_cam.jsonl", "log_cam.1.jsonl"):
        assert [line["dataflow"] for line in lines(tmp_path / name)] == ["arm"]


def test_nothing_is_made_without_an_entry(tmp_path):
    LogFiles(str(tmp_path / "out")).close()
    assert list(tmp_path.iterdir()) == []


def test_a_restarted_node_continues_its_log_file(tmp_path):
    log = LogFiles(str(tmp_path))
    log.write(entry("before"))
    log.mark_restart("cam", 1, WHEN)
    log.write(entry("after"))
    log.close()
    written = lines(tmp_path / "log_cam.jsonl")
    assert [line["msg"] for line in written] == ["before", "--- restart 1 ---", "after"]
    assert written[1]["fields"] == {"restart_count": "1"}


def test_rotation_keeps_the_newest_files(tmp_path):
    size = len(files.file_record(entry("00")))
    log = LogFiles(str(tmp_path), {"cam": LogOptions(max_log_size=2 * size, max_rotated_files=2)})
    for number in range(9):
        log.write(entry(f"{number:02}"))
    log.close()
    assert messages(tmp_path / "log_cam.jsonl") == ["08"]
    assert messages(tmp_path / "log_cam.1.jsonl") == ["06", "07"]
    assert messages(tmp_path / "log_cam.2.jsonl") == ["04", "05"]
    assert not (tmp_path / "log_cam.3.jsonl").exists()


def test_an_entry_larger_than_the_limit_is_written_whole(tmp_path):
    log = LogFiles(str(tmp_path), {"cam": LogOptions(max_log_size=10)})
    log.write(entry("a"))
    log.write(entry("b"))
    log.close()
    assert messages(tmp_path / "log_cam.jsonl") == ["b"]
    assert messages(tmp_path / "log_cam.1.jsonl") == ["a"]


def test_the_limit_counts_the_files_of_an_earlier_run(tmp_path):
    size = len(files.file_record(entry("x")))
    for message in ("x", "y"):
        log = LogFiles(str(tmp_path), {"cam": LogOptions(max_log_size=size)})
        log.write(entry(message))
        log.close()
    assert messages(tmp_path / "log_cam.1.jsonl") == ["x"]


class Disk:
    """A disk that takes what it has room for."""

    def __init__(self, room):
        self.room = room
        self._write = os.write

    def write(self, descriptor, data):
        taken = data[: self.room]
        if not taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= len(taken)
        return self._write(descriptor, taken)


@pytest.fixture
def full_disk(monkeypatch):
    disk = Disk(len(files.file_record(entry("a"))) + 5)
    monkeypatch.setattr(files.os, "write", disk.write)
    return disk


def test_a_full_disk_is_reported_once_and_leaves_whole_lines(tmp_path, full_disk):
    now, trouble = 0.0, []
    log = LogFiles(str(tmp_path), on_warning=trouble.append, clock=lambda: now)
    for message in "abcd":
        log.write(entry(message))
    assert messages(tmp_path / "log_cam.jsonl") == ["a"]
    assert log.statistics() == {"cam": 3}
    now = RETRY_AFTER
    log.write(entry("e"))
    assert len(trouble) == 1
    assert str(tmp_path) in trouble[0] and "No space left" in trouble[0] and "goes on" in trouble[0]

    full_disk.room = 10_000
    log.write(entry("f"))  # still waiting for the next attempt
    now = 2 * RETRY_AFTER
    log.write(entry("g"))
    log.close()
    assert messages(tmp_path / "log_cam.jsonl") == ["a", "g"]


def test_after_a_failure_the_file_that_is_there_then_is_written(tmp_path, full_disk):
    now = 0.0
    log = LogFiles(str(tmp_path), clock=lambda: now)
    for message in "ab":
        log.write(entry(message))
    (tmp_path / "log_cam.jsonl").unlink()  # to make room
    full_disk.room = 10_000
    now = RETRY_AFTER
    log.write(entry("c"))
    log.close()
    assert messages(tmp_path / "log_cam.jsonl") == ["c"]


def test_neither_a_rotation_nor_a_failure_nor_the_end_leaves_a_file_open(tmp_path, full_disk):
    now = 0.0
    before = os.listdir("/dev/fd")
    log = LogFiles(str(tmp_path), {"cam": LogOptions(max_log_size=1)}, clock=lambda: now)
    for room in (10_000, 0, 10_000):
        full_disk.room = room
        for message in "abc":
            log.write(entry(message))
        now += RETRY_AFTER
    assert len(os.listdir("/dev/fd")) == len(before) + 1
    log.close()
    assert os.listdir("/dev/fd") == before


def test_a_folder_that_cannot_be_made_is_reported_once(tmp_path):
    (tmp_path / "out").write_text("a file where the folder should be")
    trouble = []
    log = LogFiles(str(tmp_path / "out"), on_warning=trouble.append)
    log.write(entry())
    log.write(entry())
    log.write(entry(node_id="plot"))
    log.close()
    assert len(trouble) == 1, "one sentence for all nodes"
    assert log.statistics() == {"cam": 2, "plot": 1}
