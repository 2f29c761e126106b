"""Files, folders and sockets that are not this user's alone are not used, whatever is planted."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from second_user import ATTACKER, as_user, needs_second_user

from dora._ownership import UnsafeFile, connect_own
from dora.daemon.control_server import Connection, ControlServer
from dora.daemon.event_loop import Loop
from dora.daemon.run_directory import remove_stale
from dora.errors import ConnectError
from dora.node.daemon_client import _with_own_files
from dora.observe.tap_session import inspect
from dora.recording.mcap.process_folder import make_folder, remove_folder
from dora.transport.board import LINE_BYTES, MAX_LINES, Board
from dora.transport.doorbell import Bell, Doorbell
from dora.transport.shm.ring_buffer import RingBuffer, RingBufferWriter, remove_ring_buffers
from dora.wire.node_config import DoorbellConfig, InputConfig, LinkConfig, NodeConfig, OutputConfig

BOARD_BYTES = MAX_LINES * LINE_BYTES


@pytest.fixture
def folder(runtime_root: str) -> Path:
    folder = Path(runtime_root, "0123456789ab")
    folder.mkdir(mode=0o700)
    return folder


def _board(path: Path, size: int = BOARD_BYTES, mode: int = 0o600) -> Path:
    with open(path, "wb") as file:
        file.truncate(size)
    path.chmod(mode)
    return path


def _linked(folder: Path) -> Path:
    (folder / "link").symlink_to(_board(folder / "board"))
    return folder / "link"


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe", 0o600)
    return folder / "pipe"


def _anothers(folder: Path) -> Path:
    os.chown(path := _board(folder / "board"), ATTACKER, ATTACKER)
    return path


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (_linked, "is a symbolic link"),
        (_pipe, "is not a regular file"),
        (lambda folder: _board(folder / "board", mode=0o622), "gives other users access"),
        (lambda folder: _board(folder / "board", BOARD_BYTES - 64), "is not the board of a dataflow"),
        (lambda folder: _board(folder / "board", BOARD_BYTES + 1), "is not the board of a dataflow"),
        pytest.param(_anothers, "belongs to another user", marks=needs_second_user),
    ],
    ids=["link", "pipe", "mode", "short", "odd", "user"],
)
def test_a_board_is_mapped_only_if_the_user_owns_the_file(
    make: Callable[[Path], Path], fault: str, folder: Path
) -> None:
    with pytest.raises(UnsafeFile, match=fault):
        Board.open(str(make(folder)))


def test_a_doorbell_must_be_a_pipe_of_the_same_user(folder: Path) -> None:
    file = folder / "file"
    file.touch(0o600)
    (folder / "link").symlink_to(_pipe(folder))
    for path in (file, folder / "link"):
        with pytest.raises(UnsafeFile):
            Doorbell(str(path))
        Bell(str(path)).ring()
    assert file.read_bytes() == b""
    with pytest.raises(BlockingIOError):
        os.read(os.open(folder / "pipe", os.O_RDWR | os.O_NONBLOCK), 1)


@pytest.mark.skipif(sys.platform != "linux", reason="ring buffers are for Linux")
def test_a_sender_writes_only_to_a_ring_buffer_of_its_own_user(folder: Path) -> None:
    RingBuffer(str(folder / "ring"), 1 << 16)
    (folder / "link").symlink_to(folder / "ring")
    for name, size in (("short", 0), ("empty", 128), ("odd", 4100)):
        (folder / name).touch(0o600)
        os.truncate(folder / name, size)
    RingBufferWriter(str(folder / "ring"))
    for name in ("link", "short", "empty", "odd"):
        with pytest.raises(UnsafeFile):
            RingBufferWriter(str(folder / name))


def test_a_socket_is_used_only_in_a_folder_of_the_same_user(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "sock"))
        server.listen()
        connect_own(str(folder / "sock")).close()
        (folder / "link").symlink_to(folder / "sock")
        (folder / "file").touch()
        for name in ("link", "file"):
            with pytest.raises(UnsafeFile, match="is not a socket"):
                connect_own(str(folder / name))
        folder.chmod(0o711)
        with pytest.raises(UnsafeFile, match=r"gives other users access \(mode 711\)"):
            connect_own(str(folder / "sock"))


@needs_second_user
@pytest.mark.processes
def test_nothing_is_sent_to_a_socket_of_another_user(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "sock"))
        program = "import os, socket, sys; socket.socket(fileno=int(sys.argv[1])).listen(); os._exit(0)"
        number = server.fileno()
        listen = as_user(ATTACKER, [sys.executable, "-S", "-E", "-c", program, str(number)])
        subprocess.run(listen, pass_fds=[number], check=True)
        with pytest.raises(UnsafeFile, match="another user listens at"):
            connect_own(str(folder / "sock"))


@needs_second_user
@pytest.mark.processes
def test_a_daemon_does_not_answer_another_user_even_in_an_open_folder(open_folder: Path) -> None:
    path = open_folder / "daemon.sock"
    loop = Loop()
    served: list[Connection] = []
    server = ControlServer(loop, str(path), lambda peer, _: served.append(peer), lambda _: None, print)
    path.chmod(0o666)
    program = (
        "import socket, sys; peer = socket.socket(socket.AF_UNIX); peer.connect(sys.argv[1]);"
        "peer.settimeout(30); sys.exit(len(peer.recv(1)))"
    )
    ask = as_user(ATTACKER, [sys.executable, "-S", "-E", "-c", program, str(path)])
    try:
        with subprocess.Popen(ask) as attacker:
            while attacker.poll() is None:
                loop.run_once(time.monotonic() + 0.05)
        assert attacker.returncode == 0  # the end of the connection, and no byte
        assert not server.connections and not served
    finally:
        server.close()


@pytest.mark.processes
def test_paths_from_a_daemon_are_not_trusted(folder: Path, tmp_path: Path) -> None:
    """A client uses the board in the folder of the run, whichever file the daemon names."""
    fake = Path(__file__).with_name("planted_daemon.py")
    board, heard = tmp_path / "board", tmp_path / "heard"
    command = [sys.executable, str(fake), str(folder), str(board), str(heard)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as daemon:
        try:
            assert daemon.stdout is not None
            assert daemon.stdout.readline() == "ready\n"
            from dora.daemon.client import DaemonClient

            with DaemonClient(f"{folder}/daemon.sock") as run:
                inspection = inspect(run)
        finally:
            daemon.kill()
    assert inspection.board != str(board)
    assert os.path.basename(inspection.board) in ("dora_0123456789ab_board", "board")
    assert inspection.run_dir == str(folder)


def _config(bell: str) -> NodeConfig:
    link = LinkConfig(0, 0, bell, "b/x")
    output = OutputConfig("x", links=[link], credit_bell=bell, prewake=[DoorbellConfig(0, bell)])
    item = InputConfig("y", "link", "a/y", credit_bell=bell)
    return NodeConfig(
        *("id", "a", "shm", "/their/run", "their_", "/their/board", 0, bell),
        inputs=[item],
        outputs=[output],
    )


def test_a_node_uses_the_files_of_the_run_that_it_registered_with() -> None:
    config = _with_own_files(_config("/their/run/bell-0"), "/mine/0123456789ab")
    assert b"/their" not in msgspec.json.encode(config)
    assert config.bell == config.outputs[0].links[0].bell == "/mine/0123456789ab/bell-0"
    assert config.prefix == "dora_0123456789ab_"


def test_a_node_refuses_a_doorbell_that_is_elsewhere() -> None:
    with pytest.raises(ConnectError, match="a doorbell of another run, /elsewhere/bell-0"):
        _with_own_files(_config("/elsewhere/bell-0"), "/mine/0123456789ab")


@needs_second_user
def test_shared_memory_that_another_user_has_planted_stops_a_node(folder: Path, tmp_path: Path) -> None:
    """The node does not change its mode, nor follow a symbolic link, nor let iceoryx2 use it."""
    pytest.importorskip("iceoryx2")
    from dora.transport.shm.iceoryx2 import make_node

    (letter := tmp_path / "letter").touch(0o644)
    letter.chmod(0o644)
    planted = Path("/dev/shm/dora_0123456789ab_x_node.0_10_0.global_mgmt")
    for plant in (lambda: planted.touch(0o666), lambda: planted.symlink_to(letter), planted.mkdir):
        plant()
        try:
            os.chown(planted, ATTACKER, ATTACKER, follow_symlinks=False)
            with pytest.raises(UnsafeFile, match=f"{planted} was not made by this dataflow"):
                make_node(str(folder), "dora_0123456789ab_")
        finally:
            planted.rmdir() if planted.is_dir() else planted.unlink()
    assert letter.stat().st_mode & 0o777 == 0o644


def test_folders_of_ended_processes_are_removed_only_if_this_program_made_them(tmp_path: Path) -> None:
    dead = 2**22 + 1  # larger than any process id
    left = tmp_path / f"dora-order-{dead}-abcdefgh"
    kept = [
        tmp_path / f"dora-order-{dead}-notes-of-mine",
        tmp_path / f"dora-order-{dead}-abcdefg",
        tmp_path / f"dora-other-{dead}-abcdefgh",
    ]
    for path in (left, *kept):
        path.mkdir(mode=0o700)
        (path / "letter").touch()
    open_to_all = tmp_path / f"dora-order-{dead}-bcdefghi"
    open_to_all.mkdir()
    open_to_all.chmod(0o755)
    link = tmp_path / f"dora-order-{dead}-cdefghij"
    link.symlink_to(kept[0])
    folder = make_folder("order", str(tmp_path))
    assert not left.exists()
    assert all((path / "letter").exists() for path in kept)
    assert open_to_all.exists() and link.is_symlink()
    remove_folder(folder)
    assert not os.path.exists(folder)
    remove_folder(str(kept[0]))  # which this process has not made
    assert kept[0].exists()


def test_a_folder_of_a_process_in_another_container_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder("order", str(tmp_path))
    monkeypatch.setattr("dora.recording.mcap.process_folder._lives", lambda _: False)
    other = make_folder("order", str(tmp_path))
    assert os.path.exists(folder)
    for path in (folder, other):
        remove_folder(path)


@pytest.mark.skipif(sys.platform != "linux", reason="ring buffers are for Linux")
def test_only_ring_buffers_of_a_recorder_are_removed(tmp_path: Path) -> None:
    """The daemon does so when a recorder has gone; its request names the folder."""
    ring_buffers = make_folder("rings", "/dev/shm")
    mine = Path("/dev/shm/dora-rings-mine")
    longer = Path(f"{ring_buffers}-2")
    elsewhere = tmp_path / "dora-rings-1-abcdefgh"
    for path in (mine, longer, elsewhere):
        path.mkdir(mode=0o700)
    try:
        os.chmod(ring_buffers, 0o777)
        remove_ring_buffers(ring_buffers)
        assert os.path.exists(ring_buffers), "others may have put something there"
        os.chmod(ring_buffers, 0o700)
        for path in (ring_buffers, str(mine), str(longer), str(elsewhere)):
            remove_ring_buffers(path)
        assert not os.path.exists(ring_buffers)
        assert mine.exists() and longer.exists() and elsewhere.exists()
    finally:
        remove_folder(ring_buffers)
        mine.rmdir()
        longer.rmdir()


def test_a_lock_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir(mode=0o700)
    (letter := tmp_path / "letter").write_text("dear")
    letter.chmod(0o600)
    (root / "lock").symlink_to(letter)
    with pytest.raises(UnsafeFile, match="is a symbolic link"):
        remove_stale(str(root))
    assert letter.read_text() == "dear"
