"""What is particular to the engine ``shm``: its files, its memory, processes that die or are stopped."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import signal
import threading
from pathlib import Path

import pytest
from linking import LIMIT, Bench, OutputPort, sequences
from msgspec.structs import replace

from dora.errors import SharedMemoryFull, TransportError, WrongProcess
from dora.transport import mapping
from dora.transport.interface import MAX_QUEUE
from dora.transport.shm.channel import is_dead, remove_dead_processes
from dora.transport.shm.engine import ShmReceiver, ShmSender, join
from dora.transport.shm.pool import SMALL, block_size
from dora.transport.shm.room import RESERVE
from dora.wire.decode import decode_arrow, decode_bytes
from dora.wire.message import unpack_header


def folder(bench: Bench) -> Path:
    return Path(f"/dev/shm/{bench.prefix}links")


def names(bench: Bench, kind: str) -> list[str]:
    """Return the names of the files of a kind: p, r, c or s."""
    return sorted(path.name for path in folder(bench).rglob(f"{kind}.*"))


def occupied(bench: Bench) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder(bench).rglob("s.*"))


def made(port: OutputPort) -> int:
    """Return how many segments an output has made until now."""
    return sender_of(port).pool._made


def sender_of(port: OutputPort) -> ShmSender:
    assert isinstance(port.sender, ShmSender)
    return port.sender


def all_is_idle(port: OutputPort) -> bool:
    """Return whether nobody has any memory of an output."""
    pool = sender_of(port).pool
    return {size: len(idle) for size, idle in pool._idle.items()} == pool._total


# --------------------------------------------------------------------------- memory


def test_a_block_is_at_most_an_eighth_larger_than_its_message() -> None:
    for size in [0, 1, SMALL, SMALL + 1, 65_536, 65_537, (1 << 20) + 64, 5_000_000, (1 << 30) + 64]:
        assert size <= block_size(size) <= max(SMALL, size * 9 // 8 + 64)


def test_memory_follows_use(shm_bench: Bench) -> None:
    output_port, (port,) = shm_bench.link(20)
    for _ in range(20):
        output_port.send(bytes(1 << 20))
    assert occupied(shm_bench) > 20 << 20
    port.take_all()
    for _ in range(600):
        output_port.send(bytes(100_000))
        port.take()
    assert occupied(shm_bench) < 2 << 20
    assert len(names(shm_bench, "s")) < 5


def test_freed_memory_is_free_although_a_receiver_has_it_mapped(shm_bench: Bench) -> None:
    output_port, (port,) = shm_bench.link(10)
    output_port.send(bytes(1 << 20))
    (path,) = folder(shm_bench).rglob("s.*")
    with path.open("rb") as file:
        assert os.fstat(file.fileno()).st_blocks * 512 >= 1 << 20
        port.take()
        for _ in range(600):
            output_port.send(bytes(100_000))
            port.take()
        assert os.fstat(file.fileno()).st_blocks == 0


def test_a_block_that_came_back_is_used_next(shm_bench: Bench) -> None:
    output_port, (port,) = shm_bench.link(10)
    for _ in range(100):
        output_port.send(bytes(1 << 20))
        decode_arrow(port.take())
    assert len(names(shm_bench, "s")) <= 2


@pytest.mark.lengthy
def test_a_burst_of_small_messages_is_forgotten(shm_bench: Bench) -> None:
    output_port, (port,) = shm_bench.link(1000)
    for _ in range(1000):
        output_port.send(b"x")
    burst = occupied(shm_bench)
    segments = made(output_port)
    assert segments < 50, "many messages lie in one segment"
    port.take_all()
    for _ in range(40_000):
        output_port.send(b"x")
        port.receiver.receive()
    assert occupied(shm_bench) < burst / 4
    assert made(output_port) == segments, "what is in use is not made again"
    sender_of(output_port)._reclaim()
    assert all_is_idle(output_port), "what was freed is not counted any more"


def test_memory_that_each_burst_needs_is_kept(shm_bench: Bench) -> None:
    output_port, (port,) = shm_bench.link(10)
    for _ in range(90):
        for _ in range(10):
            output_port.send(bytes(100_000))
        port.take_all()
    assert made(output_port) < 10


def test_what_a_program_holds_stays_when_the_memory_around_it_is_idle(shm_bench: Bench) -> None:
    output_port, (port,) = shm_bench.link(100)
    for number in range(60):
        output_port.send(bytes([number]) * 20_000)
    arrays = [decode_arrow(message) for message in port.take_all()]
    held = dict(list(enumerate(arrays))[::4])
    del arrays
    for _ in range(600):  # until what is idle is freed
        output_port.send(bytes(100_000))
        port.take()
    for number, array in held.items():
        assert array.buffers()[1].to_pybytes() == bytes([number]) * 20_000


def test_small_messages_find_memory_after_all_of_it_was_freed(shm_bench: Bench) -> None:
    output_port, (port,) = shm_bench.link(10)
    output_port.send(b"x")
    port.take()
    for _ in range(600):  # until what is idle is freed
        output_port.send(bytes(100_000))
        port.take()
    for _ in range(10):
        output_port.send(b"goes on")
        assert decode_bytes(port.take()) == b"goes on"


def test_the_last_room_is_used_for_one_message_at_a_time(
    shm_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dora.transport.shm import pool

    output_port, (port,) = shm_bench.link(10)
    room = RESERVE + 2 * SMALL  # the first segment of a large /dev/shm has four blocks
    monkeypatch.setattr(pool, "free_bytes", lambda: room - occupied(shm_bench))
    for number in range(2):
        output_port.send(b"x")
        assert occupied(shm_bench) == (number + 1) * SMALL
    with pytest.raises(SharedMemoryFull):
        output_port.send(b"x")
    assert len(port.take_all()) == 2


def test_after_a_burst_little_memory_is_made_at_first(shm_bench: Bench) -> None:
    output_port, (port,) = shm_bench.link(1000)
    for _ in range(1000):
        output_port.send(b"x")
    port.take_all()
    for _ in range(600):  # until what is idle is freed
        output_port.send(bytes(100_000))
        port.take()
    before = occupied(shm_bench)
    output_port.send(b"x")
    assert occupied(shm_bench) == before + 4 * SMALL


def test_new_memory_is_not_taken_for_what_was_freed(shm_bench: Bench) -> None:
    output_port, (port,) = shm_bench.link(20)
    for first in (0, 20):
        for number in range(first, first + 20):
            output_port.send(bytes([number]) * (1 << 20))
        for number in range(first, first + 20):
            assert decode_bytes(port.take()) == bytes([number]) * (1 << 20)
        for _ in range(600):  # until it is freed
            output_port.send(bytes(100_000))
            port.take()
        assert occupied(shm_bench) < 2 << 20


def test_memory_that_is_freed_is_unmapped_at_once(
    shm_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    unmapped: list[int] = []

    class Unmap(mapping._Unmap):
        def __del__(self) -> None:
            unmapped.append(self._size)
            super().__del__()

    monkeypatch.setattr(mapping, "_Unmap", Unmap)
    output_port, _ = shm_bench.link()
    gc.disable()
    try:
        output_port.send(bytes(1 << 20))
        for _ in range(600):
            output_port.send(bytes(100_000))
        assert max(unmapped, default=0) > 1 << 20
    finally:
        gc.enable()


def test_a_receiver_keeps_a_limited_number_of_segments_mapped(
    shm_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dora.transport.shm.engine._MOST_SEGMENTS", 3)
    output_port, (port,) = shm_bench.link(10)
    arrays = []
    for number in range(10):  # of all sizes, so that each one gets a segment of its own
        output_port.send(bytes([number]) * (SMALL << number))
        arrays.append(decode_arrow(port.take()))
    assert len(names(shm_bench, "s")) == 10
    assert isinstance(port.receiver, ShmReceiver)
    (incoming,) = port.receiver._incoming
    assert len(incoming.segments) <= 3
    for number, array in enumerate(arrays):
        assert array[0].as_py() == array[-1].as_py() == number, "what the program holds stays mapped"


def test_without_room_messages_are_refused_until_there_is_some(
    shm_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dora.transport.shm import pool

    output_port, (port,) = shm_bench.link(100)
    with monkeypatch.context() as patch:
        patch.setattr(pool, "free_bytes", lambda: 0)
        output_port.sender.prepare()  # never fails
        with pytest.raises(SharedMemoryFull, match="the message needs"):
            output_port.sender.send(output_port.message(b"lost"))
        with pytest.raises(
            SharedMemoryFull, match=r"needs 0\.1 MB of shared memory, but /dev/shm has only 0\.0"
        ):
            output_port.sender.loan(100_000)
    output_port.send(b"goes on")
    assert decode_bytes(port.take()) == b"goes on"


def test_a_message_that_would_take_the_last_room_is_refused(
    shm_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dora.transport.shm import pool

    output_port, _ = shm_bench.link(10)
    size = 1 << 20
    monkeypatch.setattr(pool, "free_bytes", lambda: size + RESERVE - 1)
    with pytest.raises(SharedMemoryFull):
        output_port.sender.loan(size)
    monkeypatch.setattr(pool, "free_bytes", lambda: size + RESERVE)
    output_port.sender.loan(size).discard()


def no_room(path: str, size: int) -> None:  # noqa: ARG001 - instead of `mapping.make`
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_an_observer_without_room_harms_no_sender(
    shm_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    output_port, (port,) = shm_bench.link(10)
    presence = sender_of(output_port)._presence
    assert presence is not None
    config = port.config
    with monkeypatch.context() as patch:
        patch.setattr("dora.transport.shm.engine.make", no_room)
        tap = ShmReceiver(presence, str(folder(shm_bench)), config, tap=True)
        output_port.send(b"1")
    assert decode_bytes(port.take()) == b"1"
    assert tap.receive() is None
    other = ShmReceiver(presence, str(folder(shm_bench)), config, tap=True)
    output_port.send(b"2")
    for each in (tap, other):
        message = each.receive()
        assert message is not None and decode_bytes(message) == b"2"
        each.close()


def test_where_memory_is_short_observers_lose_messages_and_nodes_do_not(
    shm_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    output_port, (port,) = shm_bench.link(10)
    presence = sender_of(output_port)._presence
    assert presence is not None
    tap = ShmReceiver(presence, str(folder(shm_bench)), replace(port.config, queue_size=256), tap=True)
    for _ in range(20):
        output_port.send(bytes(100_000))
    port.take_all()
    before = occupied(shm_bench)
    assert before > 2 << 20
    monkeypatch.setattr("dora.transport.shm.pool.is_short", lambda _: True)
    output_port.send(bytes(100_000))  # one message always waits for the node
    for number in range(21, 71):
        output_port.send(bytes(100_000))
        assert port.take().sequence == number
    assert occupied(shm_bench) <= before
    received = []
    while (message := tap.receive()) is not None:
        received.append(message.sequence)
    assert received and received == list(range(received[0], 72)), "the newest, without a gap"
    tap.close()


def test_a_loan_that_cannot_be_sent_gives_its_memory_back(
    shm_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    output_port, (port,) = shm_bench.link(10)
    sender = sender_of(output_port)
    presence = sender._presence
    assert presence is not None
    for _ in range(20):  # more than there may be loans
        loan = sender.loan(1000)
        with monkeypatch.context() as patch:
            patch.setattr("dora.transport.shm.engine.make", no_room)
            receiver = ShmReceiver(presence, str(folder(shm_bench)), port.config)
            with pytest.raises(SharedMemoryFull, match=r"no room in /dev/shm .* are enough to start"):
                loan.send()
        receiver.close()
        loan.discard()
    assert occupied(shm_bench) == 4 * SMALL, "the first segment is sufficient"
    output_port.send(b"goes on")
    assert decode_bytes(port.take()) == b"goes on"


def test_idle_memory_makes_room_for_a_larger_message(
    shm_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dora.transport.shm import pool

    output_port, (port,) = shm_bench.link(10)
    for _ in range(10):
        output_port.send(bytes(1 << 20))
    port.take_all()
    room = 20 << 20  # bytes of a /dev/shm of our own
    monkeypatch.setattr(pool, "free_bytes", lambda: room - occupied(shm_bench))
    output_port.send(bytes(16 << 20))
    assert port.take().body_size == 16 << 20
    with pytest.raises(SharedMemoryFull):
        output_port.send(bytes(32 << 20))


def test_a_message_that_is_larger_than_the_prepared_memory_gets_memory_of_its_own(shm_bench: Bench) -> None:
    output_port, (port,) = shm_bench.link(10)
    for size in (2 * SMALL, 10):
        output_port.sender.prepare()
        output_port.sender.send(output_port.message(bytes(size)))
        assert port.take().body_size == size


def test_any_number_of_loans_may_be_discarded(shm_bench: Bench) -> None:
    output_port, _ = shm_bench.link(10)
    for _ in range(40):
        output_port.sender.loan(100).discard()
    for _ in range(7):
        output_port.sender.loan(1 << 20).discard()
    assert occupied(shm_bench) < 3 << 20, "the next one has the memory of the last one"
    loans = [output_port.sender.loan(100) for _ in range(8)]
    for loan in loans:
        loan.discard()
    output_port.sender.loan(100).discard()


# --------------------------------------------------------------------------- ends


def test_a_destroyed_output_leaves_no_files_and_its_receivers_forget_it(shm_bench: Bench) -> None:
    output_port, (port,) = shm_bench.link(10)
    output_port.send(bytes(50_000))
    port.take()
    output_port.sender.destroy()
    assert (names(shm_bench, "c"), names(shm_bench, "s")) == ([], [])
    assert isinstance(port.receiver, ShmReceiver)
    assert port.receiver.receive() is None
    assert port.receiver._incoming == []


def test_what_a_closed_receiver_holds_is_not_written(shm_bench: Bench) -> None:
    output_port, (port,) = shm_bench.link(10)
    output_port.send(b"1" * 50_000)
    array = decode_arrow(port.take())
    port.receiver.close()
    for engine in shm_bench.engines:
        engine.close()
    for _ in range(50):
        output_port.send(b"2" * 50_000)
    assert array.buffers()[1].to_pybytes() == b"1" * 50_000
    ring_files = names(shm_bench, "c")
    del array
    gc.collect()
    output_port.send(b"2" * 50_000)
    output_port.send(b"2" * 50_000)
    assert len(ring_files) == 1
    assert names(shm_bench, "c") == []


def test_who_has_closed_everything_has_left_although_the_program_keeps_its_ports(shm_bench: Bench) -> None:
    _, (port,) = shm_bench.link(10)
    assert isinstance(port.receiver, ShmReceiver)
    assert port.receiver._presence is not None
    process = port.receiver._presence.id
    port.receiver.close()
    assert not is_dead(str(folder(shm_bench)), process)
    shm_bench.engines[0].close()
    assert is_dead(str(folder(shm_bench)), process)


def test_what_a_closed_receiver_holds_is_not_written_after_all_files_were_removed(shm_bench: Bench) -> None:
    output_port, (port,) = shm_bench.link(10)
    output_port.send(b"1" * 50_000)
    array = decode_arrow(port.take())
    port.receiver.close()
    output_port.send(b"2" * 50_000)
    shutil.rmtree(folder(shm_bench))
    for _ in range(50):
        output_port.send(b"2" * 50_000)
    assert array.buffers()[1].to_pybytes() == b"1" * 50_000


def test_who_leaves_takes_its_file_along(shm_bench: Bench) -> None:
    presence = join(str(folder(shm_bench)), "a tap")
    assert names(shm_bench, "p") == [f"p.{presence.id}"]
    presence.leave()
    assert names(shm_bench, "p") == []


def test_to_look_whether_a_process_lives_leaves_no_file_open(shm_bench: Bench) -> None:
    output_port, _ = shm_bench.link()
    presence = sender_of(output_port)._presence
    assert presence is not None
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        assert not is_dead(str(folder(shm_bench)), presence.id)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.processes
def test_a_killed_receiver_gives_everything_back(shm_bench: Bench) -> None:
    output, (config,) = shm_bench.describe(10)
    receiver = shm_bench.start_receiver("end", config)
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == "listening\n"
    output_port = OutputPort(output, shm_bench.engine(), shm_bench.board)
    receiver.send_signal(signal.SIGSTOP)
    for _ in range(50):
        output_port.send(bytes(100_000))
    receiver.kill()
    receiver.wait(LIMIT)
    assert remove_dead_processes(shm_bench.prefix)
    output_port.send(b"x")
    assert not names(shm_bench, "c")
    assert not names(shm_bench, "r")
    assert all_is_idle(output_port)


@pytest.mark.processes
def test_a_receiver_that_is_killed_while_it_holds_a_message_gives_it_back(shm_bench: Bench) -> None:
    output, (config,) = shm_bench.describe(10)
    receiver = shm_bench.start_receiver("kill", config)
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == "listening\n"
    output_port = OutputPort(output, shm_bench.engine(), shm_bench.board)
    output_port.send(bytes(100_000))
    assert receiver.wait(LIMIT) == -signal.SIGKILL
    assert remove_dead_processes(shm_bench.prefix)
    output_port.send(b"x")
    assert all_is_idle(output_port)
    assert names(shm_bench, "c") == []


def test_a_message_in_the_hand_of_a_former_receiver_comes_back_once_its_process_is_dead(
    shm_bench: Bench,
) -> None:
    """It ends between taking the message and giving its slot back."""
    output_port, (port,) = shm_bench.link(10)
    output_port.send(b"x")
    assert isinstance(port.receiver, ShmReceiver)
    assert port.receiver.has_messages()
    (incoming,) = port.receiver._incoming
    assert incoming.ring.take() >= 0
    port.receiver.close()
    output_port.send(b"x")
    assert not all_is_idle(output_port), "its process may still read it"
    del incoming
    shm_bench.engines[0].close()
    sender_of(output_port)._reclaim()
    assert all_is_idle(output_port)
    assert names(shm_bench, "c") == []


def test_a_closed_receiver_gives_back_what_it_has_not_read(shm_bench: Bench) -> None:
    output_port, (port,) = shm_bench.link(10)
    for _ in range(5):
        output_port.send(bytes(100_000))
    port.receiver.close()
    output_port.send(b"x")
    assert all_is_idle(output_port)
    assert names(shm_bench, "c") == []
    assert sender_of(output_port)._former == {}


@pytest.mark.processes
def test_a_stopped_receiver_holds_nobody_up(shm_bench: Bench) -> None:
    output, inputs = shm_bench.describe(3, 3)
    receiver = shm_bench.start_receiver("end", inputs[0])
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == "listening\n"
    other = shm_bench.port(inputs[1])
    output_port = OutputPort(output, shm_bench.engine(), shm_bench.board)
    receiver.send_signal(signal.SIGSTOP)
    for number in range(1, 1000):
        output_port.send(bytes(10_000))
        assert other.take().sequence == number
    assert len(names(shm_bench, "s")) <= 6


@pytest.mark.processes
def test_unread_messages_of_a_killed_sender_are_not_cleaned_away(shm_bench: Bench) -> None:
    output, (config,) = shm_bench.describe(10)
    port = shm_bench.port(config)
    assert shm_bench.start_sender("kill", output).wait(LIMIT) == -9
    assert not remove_dead_processes(shm_bench.prefix)
    assert sequences([port.take(), port.take()]) == [1, 2]
    assert remove_dead_processes(shm_bench.prefix)
    assert not names(shm_bench, "s")
    assert port.receiver.receive() is None


@pytest.mark.processes
def test_unread_messages_between_two_that_were_killed_are_cleaned_away(shm_bench: Bench) -> None:
    output, (config,) = shm_bench.describe(10)
    receiver = shm_bench.start_receiver("end", config)
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == "listening\n"
    receiver.send_signal(signal.SIGSTOP)
    assert shm_bench.start_sender("kill", output).wait(LIMIT) == -signal.SIGKILL
    receiver.kill()
    receiver.wait(LIMIT)
    assert remove_dead_processes(shm_bench.prefix)
    assert [names(shm_bench, kind) for kind in "prcs"] == [[], [], [], []]


@pytest.mark.processes
def test_a_tap_that_nobody_reads_does_not_keep_the_files_of_the_dead(shm_bench: Bench) -> None:
    output, (config,) = shm_bench.describe(10)
    engine = shm_bench.engine()
    presence = engine._own_presence()  # type: ignore[attr-defined]
    tap = ShmReceiver(presence, str(folder(shm_bench)), config, tap=True)
    assert shm_bench.start_sender("kill", output).wait(LIMIT) == -9
    assert remove_dead_processes(shm_bench.prefix)
    assert not names(shm_bench, "s")
    tap.close()


# --------------------------------------------------------------------------- forks


@pytest.mark.processes
def test_a_forked_child_neither_uses_nor_frees_what_its_parent_has(shm_bench: Bench) -> None:
    output_port, (port,) = shm_bench.link(10)
    output_port.send(b"1" * 50_000)
    array = decode_arrow(port.take())
    loan = output_port.sender.loan(100)

    def in_child() -> int:
        for use in (
            lambda: output_port.sender.send(b"x" * 100),
            lambda: output_port.sender.loan(100_000),
            loan.send,
            port.receiver.receive,
            lambda: shm_bench.engines[0].sender(output_port.config),
        ):
            try:
                use()
            except WrongProcess:
                continue
            return 1
        nonlocal array
        array = None
        gc.collect()
        return 0

    child = os.fork()
    if not child:
        status = 2
        try:
            status = in_child()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for _ in range(20):
        output_port.send(b"2" * 50_000)
        port.take()
    assert array.buffers()[1].to_pybytes() == b"1" * 50_000
    loan.discard()


# --------------------------------------------------------------------------- spillover queues


@pytest.mark.lengthy
def test_a_spillover_queue_gives_each_message_once_while_receivers_come(
    shm_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_hand, looked = threading.Event(), threading.Event()

    def unpack(view: memoryview, begin: int) -> tuple[int, ...]:
        if threading.current_thread().name == "dora-spillover-queue" and not in_hand.is_set():
            in_hand.set()
            looked.wait(0.2)  # the program looks for messages meanwhile, or waits for this thread
        return unpack_header(view, begin)

    monkeypatch.setattr("dora.transport.shm.engine.unpack_header", unpack)
    output_port, (port,) = shm_bench.link(MAX_QUEUE + 1)
    (receiver,) = names(shm_bench, "r")
    assert receiver.endswith(f".{MAX_QUEUE}"), "the rest of the queue is in no shared memory"
    for _ in range(1000):
        output_port.send(b"x")
    assert in_hand.wait(LIMIT)
    presence = sender_of(output_port)._presence
    assert presence is not None
    tap = ShmReceiver(presence, str(folder(shm_bench)), port.config, tap=True)
    assert port.receiver.has_messages()
    looked.set()
    assert sequences(port.take_all()) == list(range(1, 1001))
    tap.close()


# --------------------------------------------------------------------------- what others may have done


def test_files_of_another_version_are_not_used(shm_bench: Bench) -> None:
    output_port, (port,) = shm_bench.link(10)
    sender_of(output_port)._channel.changes[1] = 99
    for make in (
        lambda: shm_bench.engines[0].sender(output_port.config),
        lambda: shm_bench.engines[0].receiver(port.config, lambda: None),
    ):
        with pytest.raises(TransportError, match="was made by another version of dora"):
            make()


def test_a_ring_of_another_version_is_not_used(shm_bench: Bench) -> None:
    _, (port,) = shm_bench.link(10)
    (ring,) = folder(shm_bench).rglob("c.*")
    with ring.open("r+b") as file:
        file.write(b"\xff")
    with pytest.raises(TransportError, match="its source runs another version of dora"):
        port.receiver.receive()


def test_a_damaged_message_is_dropped_and_the_next_one_arrives(shm_bench: Bench) -> None:
    output_port, (port,) = shm_bench.link(10)
    output_port.sender.send(b"rubbish" * 20)
    huge = output_port.message(b"")[:16] + (1 << 40).to_bytes(8, "little") + bytes(40)
    output_port.sender.send(huge)
    output_port.send(b"good")
    message = port.receiver.receive()
    assert message is not None and decode_bytes(message) == b"good"


def test_all_files_are_for_this_user_only(shm_bench: Bench) -> None:
    output_port, _ = shm_bench.link(10)
    output_port.send(bytes(100_000))
    modes = {oct(path.stat().st_mode & 0o777) for path in folder(shm_bench).rglob("*") if path.is_file()}
    assert modes == {"0o600"}
    assert folder(shm_bench).stat().st_mode & 0o777 == 0o700
