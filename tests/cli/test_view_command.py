"""`dora view` refuses what it cannot show, in one sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes


def refused(*arguments: str | Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "dora", "view", "--no-open", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=100,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"hello", "is not an MCAP file"),
        (b"", "it is empty"),
        (b"#ROSBAG V2.0\n", "it is a bag of ROS 1"),
        (b"\x89MCAP0\r\n", "has no messages"),
        (b"SQLite format 3\0", "`ros2 bag convert`"),
    ],
)
def test_what_is_no_recording_is_refused(data: bytes, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "some.mcap"
    path.write_bytes(data)
    status, said = refused(path)
    assert status == 1
    assert said.count("\n") == 1
    assert said.startswith("error: ")
    assert sentence in said


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.mcap") == (1, f"error: there is no file `{tmp_path / 'none.mcap'}`\n")


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    status, said = refused(*[tmp_path / "a.mcap"] * 5)
    assert status == 2
    assert "4 recordings fit side by side, and there are 5" in said
