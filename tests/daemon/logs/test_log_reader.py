"""Log files read back: merged, followed, and across rotations."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest

from dora.daemon.logs.entry import LogEntry
from dora.daemon.logs.reader import LogReader, RotatedFile, read_record
from dora.daemon.logs.writer import LogFiles, file_record
from dora.dataflow.model import LogOptions

SECOND = 1_000_000_000


def entry(node: str | None, second: float, message: str = "x") -> LogEntry:
    return LogEntry(timestamp_ns=int(second * SECOND), level="info", node_id=node, message=message)


def messages(reader: LogReader) -> list[str]:
    return [found.message for found in reader.entries()]


def test_entries_come_back_as_they_were_written() -> None:
    full = LogEntry(
        timestamp_ns=5 * SECOND,
        level="warn",
        node_id=None,
        message="späte\nZeile",
        stream="daemon",
        target="t",
        file="a.py",
        line=3,
        fields={"k": "v"},
    )
    assert read_record(file_record(full)) == full
    assert read_record(b"no json\n") is None
    assert read_record(b'{"ts":"\xff","level":"info","node":"a","stream":"stdout","msg":"x"}\n') is None
    assert read_record(b'{"ts": 5}\n') is None


def test_nodes_are_merged_in_the_order_of_time(tmp_path: Path) -> None:
    files = LogFiles(str(tmp_path))
    for node, second in (("a", 1), ("a", 4), ("b.1", 2), (None, 3)):
        files.write(entry(node, second, f"{node}{second}"))
    reader = LogReader(str(tmp_path))
    assert reader.nodes() == ["a", "b.1", "dora"]
    assert messages(reader) == ["a1", "b.12", "None3", "a4"]
    assert messages(reader) == []
    files.write(entry("c", 5, "new"))  # a node that says something for the first time
    assert messages(reader) == ["new"]
    assert messages(LogReader(str(tmp_path), "a")) == ["a1", "a4"]


def test_a_directory_that_is_not_there_yet(tmp_path: Path) -> None:
    reader = LogReader(str(tmp_path / "out"))
    assert messages(reader) == []
    LogFiles(str(tmp_path / "out")).write(entry("a", 1))
    assert messages(reader) == ["x"]


def test_a_line_that_is_being_written(tmp_path: Path) -> None:
    line = file_record(entry("a", 1))
    path = tmp_path / "log_a.jsonl"
    path.write_bytes(line[:20])
    reader = LogReader(str(tmp_path))
    assert messages(reader) == []
    path.write_bytes(line)
    assert messages(reader) == ["x"]


def test_nothing_is_lost_and_nothing_read_twice_when_files_rotate(tmp_path: Path) -> None:
    files = LogFiles(str(tmp_path), {"a": LogOptions(max_log_size=400, max_rotated_files=50)})
    reader = LogReader(str(tmp_path))
    read: list[str] = []
    for number in range(60):
        files.write(entry("a", number, str(number)))
        if number % 13 == 0:
            read += messages(reader)
    read += messages(reader)
    assert (tmp_path / "log_a.5.jsonl").exists()
    assert read == [str(number) for number in range(60)]
    assert messages(LogReader(str(tmp_path))) == read
    assert LogReader(str(tmp_path)).nodes() == ["a"]


def test_a_file_that_is_rotated_while_it_is_opened_is_read_before_the_next_one(tmp_path: Path) -> None:
    class Rotating(RotatedFile):
        is_due = True

        def _later(self) -> Collection[tuple[str, int]]:
            found = super()._later()
            if self.is_due:
                self.is_due = False
                (tmp_path / "log.jsonl").rename(tmp_path / "log.1.jsonl")
                (tmp_path / "log.jsonl").write_bytes(b"2\n")
            return found

    (tmp_path / "log.jsonl").write_bytes(b"1\n")
    file = Rotating(str(tmp_path / "log"))
    assert [*file.read(), *file.read()] == [b"1\n", b"2\n"]
    file.close()


def test_what_is_written_before_a_rotation_is_read_though_the_file_was_read_to_its_end(
    tmp_path: Path,
) -> None:
    class Rotating(RotatedFile):
        is_due = False

        def _later(self) -> Collection[tuple[str, int]]:
            if self.is_due:
                self.is_due = False
                with open(tmp_path / "log.jsonl", "ab") as present:
                    present.write(b"2\n")
                (tmp_path / "log.jsonl").rename(tmp_path / "log.1.jsonl")
                (tmp_path / "log.jsonl").write_bytes(b"3\n")
            return super()._later()

    (tmp_path / "log.jsonl").write_bytes(b"1\n")
    file = Rotating(str(tmp_path / "log"))
    assert list(file.read()) == [b"1\n"]
    file.is_due = True
    assert list(file.read()) == [b"2\n", b"3\n"]
    file.close()


def test_in_the_middle_of_a_rotation_the_rotated_files_are_read_as_those_of_their_node(
    tmp_path: Path,
) -> None:
    files = LogFiles(str(tmp_path), {"a": LogOptions(max_log_size=1, max_rotated_files=9)})
    for number in range(3):
        files.write(entry("a", number, str(number)))
    files.close()
    follower = LogReader(str(tmp_path))
    assert messages(follower) == ["0", "1", "2"]
    for number in (2, 1):
        (tmp_path / f"log_a.{number}.jsonl").rename(tmp_path / f"log_a.{number + 1}.jsonl")
    (tmp_path / "log_a.jsonl").rename(tmp_path / "log_a.1.jsonl")
    assert messages(follower) == []
    assert messages(LogReader(str(tmp_path), "a")) == ["0", "1", "2"]
    files.write(entry("a", 3, "3"))
    files.close()
    assert messages(follower) == ["3"]


@pytest.mark.parametrize(("size", "count"), [(3, 1), (4, 1), (6, 2), (99, 3)])
def test_near_its_end_a_file_is_read_from_a_whole_line_on(tmp_path: Path, size: int, count: int) -> None:
    lines = [b"11\n", b"22\n", b"33\n"]
    (tmp_path / "log.jsonl").write_bytes(b"".join(lines))
    file = RotatedFile(str(tmp_path / "log"))
    file.begin_near_end(size)
    assert list(file.read()) == lines[-count:]
    file.close()
