"""The board: words that processes share and that outlive each of them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dora._ownership import UnsafeFile
from dora.transport import board as module
from dora.transport.board import (
    DROPPED,
    FINAL,
    LINE_BYTES,
    MAX_LINES,
    RECEIVED,
    REPEATED,
    SENT,
    WORDS,
    Board,
    delivered,
    last_sent,
)
from dora.wire.counters import LEFT_OUT, LINK_COUNTERS, LINK_FLAGS, NODE_COUNTERS


@pytest.fixture
def path() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="dora-test-", dir="/tmp") as directory:
        yield f"{directory}/board"


def test_a_new_board_is_all_zeros_and_has_a_place_for_every_line(path: str) -> None:
    board = Board.create(path, 3)
    assert os.path.getsize(path) == MAX_LINES * LINE_BYTES
    assert list(board.words[: 3 * WORDS]) == [0] * 3 * WORDS
    board.close()


def test_a_board_takes_the_memory_of_the_lines_that_are_used(path: str) -> None:
    board = Board.create(path, 3)
    assert 3 * LINE_BYTES <= os.stat(path).st_blocks * 512 <= 8192
    board.allocate(1000)
    assert os.stat(path).st_blocks * 512 >= 1000 * LINE_BYTES
    board.set(999, SENT, 5)
    assert Board.open(path).get(999, SENT) == 5
    with pytest.raises(OSError, match="65536 lines"):
        board.allocate(MAX_LINES + 1)
    board.allocate(MAX_LINES)
    assert os.stat(path).st_blocks * 512 >= MAX_LINES * LINE_BYTES


def test_a_board_of_more_lines_than_usual_has_a_place_for_all_of_them(path: str) -> None:
    board = Board.create(path, MAX_LINES + 1)
    board.set(MAX_LINES, SENT, 5)
    assert Board.open(path).get(MAX_LINES, SENT) == 5
    board.close()


@pytest.mark.parametrize("size", [0, 4096, MAX_LINES * LINE_BYTES - 8, MAX_LINES * LINE_BYTES + 8])
def test_a_file_of_another_size_is_not_used(path: str, size: int) -> None:
    """Words beyond the end of a file would be a SIGBUS."""
    Board.create(path, 1).close()
    os.truncate(path, size)
    with pytest.raises(UnsafeFile, match=f"it has {size} bytes"):
        Board.open(path)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files in /proc")
def test_a_board_that_is_closed_leaves_no_file_open(path: str) -> None:
    Board.create(path, 1).close()

    board = Board.open(path)
    board.allocate(2)
    board.close()
    files = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    assert path not in files


def test_what_still_has_to_come_from_another_machine_was_sent(path: str) -> None:
    board = Board.create(path, 1)
    board.set(0, SENT, 5)
    assert last_sent(board.words, 0) == 5
    board.set(0, FINAL, 8)
    assert last_sent(board.words, 0) == 8
    board.set(0, SENT, 9)
    assert last_sent(board.words, 0) == 9
    board.close()


def test_what_a_restarted_receiver_gets_again_is_delivered_and_what_rules_leave_out_is_not(
    path: str,
) -> None:
    board = Board.create(path, 1)
    board.set(0, RECEIVED, 5)
    board.set(0, REPEATED, 2)
    assert delivered(board.words, 0, {}) == 7
    left_out = LEFT_OUT[0].name
    assert delivered(board.words, 0, {left_out: 3}) == 4
    assert delivered(board.words, 0, {left_out: 9}) == 0, "it was read in the middle of a change"
    board.close()


@pytest.mark.lengthy
def test_processes_share_the_words_of_a_board(path: str) -> None:
    first, second = Board.create(path, 4), Board.open(path)
    first.set(2, RECEIVED, 7)
    second.words[3 * WORDS + SENT] = 2**64 - 1
    assert second.get(2, RECEIVED) == 7
    assert first.get(3, SENT) == 2**64 - 1
    assert first.get(2, DROPPED) == 0
    first.close()
    second.close()


def test_every_word_has_its_place_in_the_documentation_and_none_is_used_twice() -> None:
    page = (Path(__file__).parents[2] / "docs" / "wire-format.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (node|output|link) \| (\d+) \| `([A-Z]+(?:_[A-Z]+)*)` \|", page, re.MULTILINE)
    values = {"UNCONNECTED", "CONNECTED", "CLOSED", "WORDS", "LINE_BYTES", "MAX_LINES"}
    words = {
        name for name, item in vars(module).items() if name.isupper() and isinstance(item, int)
    } - values
    assert {name for _, _, name in rows} == words
    for _, word, name in rows:
        assert getattr(module, name) == int(word) < WORDS
    places = [(line, int(word)) for line, word, _ in rows]
    places += [("node", item.word) for item in NODE_COUNTERS]
    places += [("link", item.word) for item in (*LINK_COUNTERS, *LINK_FLAGS)]
    assert len(set(places)) == len(places)
    assert max(word for _, word in places) < WORDS


def test_a_board_is_made_once_and_private(path: str) -> None:
    Board.create(path, 1).close()
    assert os.stat(path).st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        Board.create(path, 1)


def test_a_missing_board_is_an_error(path: str) -> None:
    with pytest.raises(FileNotFoundError):
        Board.open(path)


def test_an_empty_board_can_be_created(path: str) -> None:
    Board.create(path, 0).close()
    Board.open(path).close()


def test_closing_keeps_the_file_and_its_numbers(path: str) -> None:
    board = Board.create(path, 1)
    board.set(0, SENT, 5)
    board.close()
    again = Board.open(path)
    assert again.get(0, SENT) == 5
    again.close()


@pytest.mark.processes
def test_numbers_survive_the_sigkill_of_their_writer(path: str) -> None:
    board = Board.create(path, 2)
    script = (
        "import os, signal, sys\n"
        "from dora.transport.board import Board\n"
        "board = Board.open(sys.argv[1])\n"
        "board.set(1, 0, 4321)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    result = subprocess.run([sys.executable, "-c", script, path], timeout=60, check=False)
    assert result.returncode == -signal.SIGKILL
    assert board.get(1, 0) == 4321
    board.close()
