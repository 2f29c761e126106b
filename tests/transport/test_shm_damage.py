"""Files of the engine ``shm`` that are in the way, damaged, of another version, or removed while in use.

Only this user and root can do that: the folder is closed to others (`security/test_shared_memory.py`).
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from linking import Bench, OutputPort

from dora._ownership import UnsafeFile
from dora.errors import DoraError, TransportError
from dora.transport.mapping import attach
from dora.transport.shm.channel import remove_dead_processes
from dora.transport.shm.ring import open_ring
from dora.wire.decode import decode_bytes, decode_numpy

ANOTHER = 54_321  # a user


def folder(bench: Bench) -> Path:
    return Path(f"/dev/shm/{bench.prefix}links")


def file_of(bench: Bench, kind: str) -> Path:
    """Return the newest file of a kind."""
    return max(folder(bench).rglob(f"{kind}*"), key=lambda path: path.stat().st_ctime_ns)


# --------------------------------------------------------------------------- in the way


def make_pipe(path: Path) -> None:
    os.mkfifo(path, 0o600)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    path.chmod(0o600)


def make_link(path: Path) -> None:
    path.symlink_to("/dev/shm")


def make_folder(path: Path) -> None:
    path.mkdir(0o700)


def make_open_file(path: Path) -> None:
    path.touch()
    path.chmod(0o666)


def make_second_name(path: Path) -> None:
    """Make a name of another user's file: of one that is not this user's, or gives others access."""
    target = path.with_name(f"{path.name}-target")
    target.touch()
    target.chmod(0o644)
    os.link(target, path)


def make_anothers(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    path.touch(0o600)
    os.chown(path, ANOTHER, ANOTHER)


def make_empty(path: Path) -> None:
    path.touch(0o600)


THINGS = [make_pipe, make_socket, make_link, make_folder, make_open_file, make_second_name, make_anothers]
things = pytest.mark.parametrize("make", THINGS, ids=lambda make: make.__name__.removeprefix("make_"))


def put_in_the_way(path: Path, make: Callable[[Path], None]) -> None:
    """Replace a file, as somebody who may write to its folder can."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    make(path)


def refused(work: Callable[[], object], name: str) -> None:
    """Check that something is refused with a sentence that names the file, and does not block."""
    with pytest.raises(DoraError) as caught:
        work()
    assert name in str(caught.value) or "cannot be set up" in str(caught.value)
    assert "\n" not in str(caught.value)


@things
@pytest.mark.parametrize("place", [".", "one output", "changes"])
def test_something_in_the_way_of_a_folder_is_named(
    shm_bench: Bench, place: str, make: Callable[[Path], None]
) -> None:
    if place == "one output" and make in (make_folder,):
        pytest.skip("a folder is what belongs there")
    output, (config,) = shm_bench.describe(10)
    engine = shm_bench.engine()
    way = {".": folder(shm_bench), "one output": folder(shm_bench) / str(output.slot)}
    if place == "changes":
        shm_bench.port(config)
        path = folder(shm_bench) / str(output.slot) / "changes"
    else:
        path = way[place]
        path.mkdir(0o700, exist_ok=True)
    if make is make_folder and place == ".":
        pytest.skip("a folder is what belongs there")
    put_in_the_way(path, make)
    if place == ".":
        refused(shm_bench.engine, str(path))
    else:
        refused(lambda: engine.sender(output), str(path))
        refused(lambda: engine.receiver(config, lambda: None), str(path))


@things
def test_something_in_the_way_of_a_ring_is_named(shm_bench: Bench, make: Callable[[Path], None]) -> None:
    output_port, (port,) = shm_bench.link(10)
    output_port.send(b"x")
    put_in_the_way(file_of(shm_bench, "c."), make)
    refused(port.receiver.receive, "c.")
    refused(port.receiver.has_messages, "c.")  # again, and not as if nothing was there


@things
def test_a_message_is_dropped_if_something_is_in_the_way_of_its_memory(
    shm_bench: Bench, make: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    output_port, (port,) = shm_bench.link(10)
    output_port.send(bytes(50_000))
    put_in_the_way(file_of(shm_bench, "s."), make)
    assert port.receiver.receive() is None
    assert "a bad message was dropped: the memory of a message cannot be used" in caplog.text
    output_port.send(b"goes on")
    assert decode_bytes(port.take()) == b"goes on"


@things
def test_clean_up_is_not_held_up_by_something_in_the_way(
    shm_bench: Bench, make: Callable[[Path], None]
) -> None:
    output_port, _ = shm_bench.link(10)
    output_port.send(b"x")
    for kind in ("p.", "c."):
        put_in_the_way(file_of(shm_bench, kind), make)
    remove_dead_processes(shm_bench.prefix)
    for name in ("r.strange", "c.strange", "t.strange", "p.strange", "s.1", "strange"):
        make(output_port_folder(shm_bench, output_port) / name)
    remove_dead_processes(shm_bench.prefix)


def output_port_folder(bench: Bench, output_port: OutputPort) -> Path:
    return folder(bench) / str(output_port.config.slot)


def test_files_with_strange_names_are_nobodys(shm_bench: Bench) -> None:
    output_port, (port,) = shm_bench.link(10)
    place = output_port_folder(shm_bench, output_port)
    for name in ("r.", "r.x", "r.x.y.z", "r.x.1.-5", "c.", "c.x.y", "s.", "zzz", "p.1"):
        (place / name).touch(0o600)
    output_port.sender._channel.announce()  # type: ignore[attr-defined]
    output_port.send(b"x")
    assert decode_bytes(port.take()) == b"x"


# --------------------------------------------------------------------------- damaged


@pytest.mark.parametrize("size", [0, 8, 100, 256, 500, 4095])
def test_a_ring_that_is_too_short_is_not_used(shm_bench: Bench, size: int) -> None:
    output_port, (port,) = shm_bench.link(100)
    os.truncate(file_of(shm_bench, "c."), size)
    refused(port.receiver.receive, "its source runs another version of dora")
    del output_port


@pytest.mark.parametrize("size", [0, 8, 15, 100])
def test_a_file_of_changes_that_is_too_short_is_not_used(shm_bench: Bench, size: int) -> None:
    output, (config,) = shm_bench.describe(10)
    shm_bench.port(config).receiver.close()
    os.truncate(folder(shm_bench) / str(output.slot) / "changes", size)
    engine = shm_bench.engine()
    if size >= 16:  # what is missing is never read
        engine.sender(output)
    else:
        refused(lambda: engine.sender(output), "another version of dora, or is damaged")


@pytest.mark.parametrize("size", [0, 4096, 8192])
@pytest.mark.parametrize("body", [10, 5000, 50_000])
def test_memory_that_is_too_short_costs_the_message_that_was_in_it(
    shm_bench: Bench, size: int, body: int, caplog: pytest.LogCaptureFixture
) -> None:
    output_port, (port,) = shm_bench.link(10)
    for _ in range(4):  # the last one lies at the end of the file
        output_port.send(b"1" * body)
    os.truncate(file_of(shm_bench, "s."), size)
    for message in port.take_all():
        assert decode_bytes(message) == b"1" * body
    assert "a bad message was dropped" in caplog.text


def test_a_receiver_that_takes_messages_and_gives_none_back_costs_a_queue_of_memory(
    shm_bench: Bench,
) -> None:
    output_port, _ = shm_bench.link(2)
    mapping = attach(str(file_of(shm_bench, "c.")))
    ring = open_ring(mapping.view, mapping.address)
    for _ in range(20):
        output_port.send(bytes(100_000))
        for full in ring.full:
            full.take(False)
    assert len(list(folder(shm_bench).rglob("s.*"))) <= 4


# --------------------------------------------------------------------------- removed while in use


def test_links_go_on_when_all_files_were_removed(shm_bench: Bench) -> None:
    """As by ``rm -rf /dev/shm/dora_*``: what is mapped stays."""
    output_port, (port, other) = shm_bench.link(10, 1)
    output_port.send(bytes(50_000))
    kept = decode_numpy(port.take())
    for _ in range(100):
        output_port.send(bytes(100))
        port.take()
    shutil.rmtree(folder(shm_bench))
    for number in range(50):
        output_port.send(bytes([number]) * 100)
        assert decode_bytes(port.take()) == bytes([number]) * 100
    other.receiver.close()  # the sender looks for changes
    for number in range(50):
        output_port.send(bytes([number]) * 100)
        assert decode_bytes(port.take()) == bytes([number]) * 100
    assert not kept.any()
    assert remove_dead_processes(shm_bench.prefix)


def test_what_needs_a_file_that_was_removed_is_refused_with_a_sentence(shm_bench: Bench) -> None:
    output_port, (port,) = shm_bench.link(10)
    output_port.send(b"x")
    assert decode_bytes(port.take()) == b"x"
    shutil.rmtree(folder(shm_bench))
    for work in (
        lambda: output_port.send(bytes(1 << 20)),
        lambda: shm_bench.engines[0].sender(output_port.config),
        lambda: shm_bench.engines[0].receiver(port.config, lambda: None),
        shm_bench.engine,
    ):
        with pytest.raises(TransportError, match=r"somebody has removed its files from shared memory"):
            work()
    output_port.send(b"goes on")
    assert decode_bytes(port.take()) == b"goes on"


def test_a_newcomer_is_refused_when_the_file_of_changes_was_removed(shm_bench: Bench) -> None:
    """Nobody would learn of it: the others have the former file."""
    output_port, (port,) = shm_bench.link(10)
    (output_port_folder(shm_bench, output_port) / "changes").unlink()
    with pytest.raises(TransportError, match=r"changes is missing; .* somebody has removed its files"):
        shm_bench.engines[0].receiver(port.config, lambda: None)
    output_port.send(b"goes on")
    assert decode_bytes(port.take()) == b"goes on"


def test_a_folder_that_others_may_write_to_is_not_used(shm_bench: Bench) -> None:
    folder(shm_bench).chmod(0o777)
    with pytest.raises(UnsafeFile, match="gives other users access"):
        shm_bench.engine()
