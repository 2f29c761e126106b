"""Tokens: only a regular file of one's own in a safe folder is one, and links are never followed."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from another_user import NEEDS_ANOTHER_USER, USER
from system import System
from tokens import TOKEN
from waiting import TIMEOUT

from dora.transport.tokens import TokenError, find_token, make_token


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the place of the user's token; the working folder is another one."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("DORA_AUTH_TOKEN", raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "config" / "dora").mkdir(parents=True, mode=0o700)
    return tmp_path / "config" / "dora" / ".dora-token"


def known_file(place: Path) -> Path:
    """Make a file whose text others know and that would do for a token."""
    known = place.parent.parent / "known"
    known.write_text(f"{TOKEN}\n")
    known.chmod(0o644)
    return known


def plant_link(place: Path) -> None:
    place.symlink_to(known_file(place))


def plant_fifo(place: Path) -> None:
    os.mkfifo(place, 0o600)


def plant_folder(place: Path) -> None:
    place.mkdir(mode=0o700)


def plant(text: bytes, mode: int = 0o600) -> Callable[[Path], None]:
    def write(place: Path) -> None:
        place.write_bytes(text)
        place.chmod(mode)

    return write


def plant_in_shared_folder(place: Path) -> None:
    plant(TOKEN.encode())(place)
    place.parent.chmod(0o777)


GOOD = f"{TOKEN}\n".encode()


@pytest.mark.parametrize("where", ["own", "here"])
@pytest.mark.parametrize(
    ("make", "told"),
    [
        (plant_link, "it is a symbolic link"),
        (plant_fifo, "it is not a regular file"),
        (plant_folder, "it is not a regular file"),
        (plant(GOOD, 0o644), "other users may read or write it"),
        (plant(GOOD, 0o660), "other users may read or write it"),
        (plant(b"short\n"), "a token has at least 32 characters"),
        (plant(GOOD + GOOD), "a token has at least 32 characters"),
        (plant(b"\xff" * 40), "a token has at least 32 characters"),
        (plant(b""), "a token has at least 32 characters"),
        (plant(b"a" * 5000), "a token has at least 32 characters"),
        (plant_in_shared_folder, "other users may write to its folder"),
    ],
    ids=[
        *("link", "fifo", "folder", "readable", "writable", "short", "lines", "bytes", "empty", "long"),
        "shared folder",
    ],
)
def test_a_planted_token_is_refused_and_nothing_is_changed(
    own: Path, make: Callable[[Path], None], told: str, where: str
) -> None:
    place = own if where == "own" else Path.cwd() / ".dora-token"
    make(place)
    before = [path.stat().st_mode for path in (place, place.parent)]
    with pytest.raises(TokenError, match=told):
        find_token()
    if where == "own":
        with pytest.raises(TokenError, match=told):
            make_token()
    else:
        assert make_token().source == str(own), "a server does not look into the working folder"
    assert [path.stat().st_mode for path in (place, place.parent)] == before


@NEEDS_ANOTHER_USER
@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_token_of_another_user_is_refused(own: Path, what: str) -> None:
    plant(GOOD)(own)
    os.chown(own if what == "file" else own.parent, USER, USER)
    with pytest.raises(TokenError, match="belongs to another user"):
        find_token()
    with pytest.raises(TokenError, match="belongs to another user"):
        make_token()


def test_a_new_token_is_readable_by_its_user_alone(own: Path) -> None:
    own.parent.rmdir()
    assert find_token() is None
    made = make_token()
    assert re.fullmatch("[0-9a-f]{64}", made.value)
    assert (find_token(), make_token()) == (made, made)
    assert stat.S_IMODE(own.stat().st_mode) == 0o600
    assert stat.S_IMODE(own.parent.stat().st_mode) == 0o700
    assert os.listdir(own.parent) == [own.name]


def test_processes_that_make_a_token_at_once_get_the_same(own: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        assert len({token.value for token in pool.map(lambda _: make_token(), range(64))}) == 1
    assert os.listdir(own.parent) == [own.name]


def test_the_variable_comes_first_and_has_the_same_rules(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(GOOD)(own)
    monkeypatch.setenv("DORA_AUTH_TOKEN", f" {TOKEN[::-1]}\n")
    assert find_token() == make_token() == (TOKEN[::-1], "DORA_AUTH_TOKEN")
    for wrong in ("secret", "x" * 31, "y" * 32 + " z"):
        monkeypatch.setenv("DORA_AUTH_TOKEN", wrong)
        for find in (find_token, make_token):
            with pytest.raises(TokenError, match="no usable token in DORA_AUTH_TOKEN"):
                find()


@pytest.mark.processes
def test_commands_and_servers_do_not_follow_a_planted_link(system: System) -> None:
    known = system.folder / "known"
    known.write_text(f"{TOKEN}\n")
    known.chmod(0o644)
    (system.folder / ".dora-token").symlink_to(known)
    system.dora("up")  # servers do not look here
    told = system.dora("list", status=1)
    assert told == "error: the token in .dora-token is not used: it is a symbolic link\n"
    assert stat.S_IMODE(known.stat().st_mode) == 0o644
    command = [sys.executable, "-m", "dora", "list", "-q"]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=TIMEOUT)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.processes
def test_a_short_token_is_refused_by_servers_and_commands(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as short:
        short.setenv("DORA_AUTH_TOKEN", "secret")
        for command in ("up", "list", "coordinator", "daemon"):
            assert "there is no usable token in DORA_AUTH_TOKEN" in system.dora(command, status=1)
