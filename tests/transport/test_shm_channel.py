"""The folder of a run's links of the engine ``shm``: who is alive, and what those that died leave there."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest
from linking import Bench, OutputPort, sequences

from dora._ownership import check_folder
from dora.errors import DoraError
from dora.transport.shm import channel
from dora.transport.shm.channel import Presence, is_dead, remove_dead_processes
from dora.transport.shm.engine import ShmReceiver, ShmSender


@pytest.fixture
def folder(shm_bench: Bench) -> Path:
    return Path(f"/dev/shm/{shm_bench.prefix}links")


def end(presence: Presence) -> None:
    """Free the lock, as the kernel does at the end of a process."""
    presence._close()


def pid_of_nobody() -> int:
    """Return the number of a process that has ended."""
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def test_a_process_is_alive_as_soon_as_it_can_be_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename
    alive: list[bool] = []

    def look(source: str, target: str) -> None:
        rename(source, target)
        alive.append(not is_dead(str(folder), target.rpartition("/p.")[2]))

    monkeypatch.setattr(os, "rename", look)
    Presence(str(folder)).leave()
    assert alive == [True]


@pytest.mark.processes
def test_a_forked_child_neither_keeps_its_parent_alive_nor_takes_its_file(folder: Path) -> None:
    presence = Presence(str(folder))
    from_child, to_parent = os.pipe()
    from_parent, to_child = os.pipe()
    child = os.fork()
    if not child:
        os.close(to_child)
        os.write(to_parent, b"forked")
        os.read(from_parent, 1)  # until the parent closes it
        presence.leave()
        os._exit(0)
    try:
        assert os.read(from_child, 6) == b"forked"
        assert not is_dead(str(folder), presence.id)
        end(presence)
        assert is_dead(str(folder), presence.id)
    finally:
        os.close(to_child)
        assert os.waitpid(child, 0)[1] == 0
        for fd in (from_child, to_parent, from_parent):
            os.close(fd)
    assert os.listdir(folder) == [f"p.{presence.id}"]


def test_two_processes_that_look_at_once_find_a_third_one_dead(folder: Path) -> None:
    presence = Presence(str(folder))
    end(presence)
    fd = os.open(folder / f"p.{presence.id}", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_SH)  # as `is_dead` of another process
    assert is_dead(str(folder), presence.id)
    os.close(fd)


@pytest.mark.parametrize("code", [errno.EEXIST, errno.ENOTEMPTY, errno.EDQUOT])
def test_a_folder_that_another_process_makes_first_is_used_and_nothing_else_stays(
    shm_bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    output, (config,) = shm_bench.describe(10)
    shm_bench.port(config)
    engine = shm_bench.engine()
    rename = os.rename

    def not_yet(path: str) -> None:
        monkeypatch.setattr(channel, "check_folder", check_folder)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def taken(source: str, target: str) -> None:  # noqa: ARG001 - instead of `os.rename`
        monkeypatch.setattr(os, "rename", rename)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(channel, "check_folder", not_yet)
    monkeypatch.setattr(os, "rename", taken)
    if code == errno.EDQUOT:
        with pytest.raises(DoraError):
            engine.sender(output)
    else:
        engine.sender(output)
    assert not list(folder.glob("t.*"))


def test_messages_of_the_oldest_sender_come_first(
    shm_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, (config,) = shm_bench.describe(10)
    port = shm_bench.port(config)
    for _ in range(4):
        output_port = OutputPort(output, shm_bench.engine(), shm_bench.board)
        output_port.send(b"x")
        output_port.sender.close()
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: sorted(listdir(path), reverse=True))
    assert sequences(port.take_all()) == [1, 2, 3, 4]


def test_unread_messages_of_a_destroyed_output_arrive_before_those_of_its_replacement(
    shm_bench: Bench,
) -> None:
    output_port, (port,) = shm_bench.link(10)
    for _ in range(3):
        output_port.send(b"x")
    port.take()
    output_port.sender.destroy()
    OutputPort(output_port.config, shm_bench.engine(), shm_bench.board).send(b"x")
    assert sequences(port.take_all()) == [2, 3, 4]


def test_a_sender_that_looks_at_once_finds_a_closed_receiver_gone(
    shm_bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output_port, (port,) = shm_bench.link(10)
    output_port.send(b"x")
    assert isinstance(port.receiver, ShmReceiver)
    receivers = port.receiver._channel
    announce = receivers.announce

    def and_look() -> None:
        announce()
        output_port.send(b"x")

    monkeypatch.setattr(receivers, "announce", and_look)
    port.receiver.close()
    assert not list(folder.rglob("c.*"))


@pytest.mark.processes
def test_what_a_process_was_making_when_it_died_is_removed(folder: Path) -> None:
    alive, dead = Presence(str(folder)), Presence(str(folder))
    for process in (alive.id, dead.id):
        (folder / f"t.{process}.7").mkdir(mode=0o700)
        (folder / f"t.{process}.7" / "changes").touch(0o600)
    (folder / f"t.{dead.id}.8").mkdir(mode=0o700)
    for pid in (os.getpid(), pid_of_nobody()):
        (folder / f"t.0000000000000001-{pid:x}").touch(0o600)
    end(dead)
    assert remove_dead_processes(shm_prefix(folder))
    assert {path.name for path in folder.iterdir()} == {
        f"p.{alive.id}",
        f"t.{alive.id}.7",
        f"t.0000000000000001-{os.getpid():x}",
    }


def test_a_receiver_forgets_a_dead_sender_whose_files_were_removed(shm_bench: Bench) -> None:
    output_port, (port,) = shm_bench.link(10)
    output_port.send(b"x")
    port.take()
    assert isinstance(port.receiver, ShmReceiver)
    assert len(port.receiver._incoming) == 1
    assert isinstance(output_port.sender, ShmSender)
    assert output_port.sender._presence is not None
    end(output_port.sender._presence)
    assert remove_dead_processes(shm_bench.prefix)
    assert port.receiver.receive() is None
    assert port.receiver._incoming == []


def test_what_a_closed_receiver_held_comes_back_with_the_next_message_after_it_died(
    shm_bench: Bench, folder: Path
) -> None:
    output_port, (port,) = shm_bench.link(10)
    output_port.send(bytes(50_000))
    held = port.take()
    assert isinstance(port.receiver, ShmReceiver)
    presence = port.receiver._presence
    assert presence is not None
    port.receiver.close()
    output_port.send(b"x")
    assert list(folder.rglob("c.*")), "the program has the message"
    end(presence)
    assert remove_dead_processes(shm_bench.prefix)
    output_port.send(b"x")
    assert not list(folder.rglob("c.*"))
    del held


def shm_prefix(folder: Path) -> str:
    return folder.name.removesuffix("links")
