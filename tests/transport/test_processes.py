"""Links between processes, and messages whose sender has ended."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from linking import LIMIT, Bench, OutputPort, sequences, until
from own_shm import needs_own_shm, within_own_shm
from sender_process import LARGE, SMALL

from dora.transport.board import SENT
from dora.transport.taps import open_taps
from dora.wire.daemon_protocol import Inspection
from dora.wire.decode import decode_arrow, decode_bytes
from dora.wire.message import Message

pytestmark = pytest.mark.processes


def _receive_from_process(bench: Bench, script: str, status: int) -> list[Message]:
    output, inputs = bench.describe(10, 10)
    ports = [bench.port(config) for config in inputs]
    sender = bench.start_sender(script, output)
    assert sender.wait(LIMIT) == status
    assert bench.board.get(output.slot, SENT) == 2
    for port in ports:
        messages = [port.take(), port.take()]
        assert sequences(messages) == [1, 2]
        assert decode_bytes(messages[0]) == SMALL
        assert decode_bytes(messages[1]) == LARGE
        assert port.receiver.receive() is None
    return messages


@pytest.mark.parametrize(("script", "status"), [("end", 0), ("raise", 1), ("close", 0)])
def test_messages_of_a_sender_that_ends_at_once_arrive(
    process_bench: Bench, script: str, status: int
) -> None:
    _receive_from_process(process_bench, script, status)


@pytest.mark.parametrize(("script", "status"), [("_exit", 0), ("kill", -9)])
def test_shared_memory_keeps_the_messages_of_a_killed_sender(
    process_bench: Bench, script: str, status: int
) -> None:
    _receive_from_process(process_bench, script, status)


def _remove_dead_processes(bench: Bench) -> None:
    """Remove what dead processes have left, as the daemon does."""
    if bench.name == "shm":
        from dora.transport.shm.channel import remove_dead_processes

        assert remove_dead_processes(bench.prefix)
    else:
        from dora.transport.shm.iceoryx2 import remove_dead_nodes

        remove_dead_nodes(bench.run_dir, bench.prefix)


def test_messages_stay_valid_when_a_dead_sender_is_cleaned_up(process_bench: Bench) -> None:
    messages = _receive_from_process(process_bench, "kill", -9)
    array = decode_arrow(messages[1])
    before = _shared_memory(process_bench)
    _remove_dead_processes(process_bench)
    assert _shared_memory(process_bench) < before
    assert array.buffers()[1].to_pybytes() == LARGE


def test_a_new_node_leaves_the_messages_of_an_ended_sender_in_their_queues(process_bench: Bench) -> None:
    output, (config,) = process_bench.describe(10)
    port = process_bench.port(config)
    assert process_bench.start_sender("kill", output).wait(LIMIT) == -9
    before = _shared_memory(process_bench)
    process_bench.engine()
    assert _shared_memory(process_bench) >= before
    assert sequences([port.take(), port.take()]) == [1, 2]


def test_a_tap_that_ends_leaves_the_messages_of_an_ended_sender_in_their_queues(
    process_bench: Bench,
) -> None:
    bench = process_bench
    output, (config,) = bench.describe(10)
    port = bench.port(config)
    taps = open_taps(Inspection("id", None, bench.name, bench.run_dir, bench.prefix, "board", [], []))  # type: ignore[arg-type]
    assert bench.start_sender("kill", output).wait(LIMIT) == -9
    taps.close()
    del taps
    gc.collect()
    assert sequences([port.take(), port.take()]) == [1, 2]


def test_messages_of_a_killed_sender_are_still_there_after_its_restarts(process_bench: Bench) -> None:
    output, (config,) = process_bench.describe(10)
    port = process_bench.port(config)
    for _ in range(3):
        assert process_bench.start_sender("kill", output).wait(LIMIT) == -9
    assert sequences([port.take() for _ in range(6)]) == [1, 2, 3, 4, 5, 6]


def test_a_receiver_finds_room_if_many_have_just_died(process_bench: Bench) -> None:
    output, (config,) = process_bench.describe(10)
    for _ in range(output.max_receivers + 1):
        receiver = process_bench.start_receiver("end", config)
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "listening\n"
        receiver.kill()
        receiver.wait(LIMIT)
    port = process_bench.port(config)
    OutputPort(output, process_bench.engine(), process_bench.board).send(b"x")
    assert sequences([port.take()]) == [1]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel counts the reads of a process")
def test_a_new_node_reads_nothing_of_the_others(process_bench: Bench) -> None:
    def reads() -> int:
        counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        return int(counts["syscr"])

    process_bench.engine()  # imports
    used = []
    for _ in range(20):
        before = reads()
        process_bench.engine()
        used.append(reads() - before)
    assert min(used[10:]) == min(used[:10])  # now and then, a thread of pytest reads as well


@pytest.mark.parametrize(("script", "status"), [("end", 0), ("raise", 1), ("close", 0), ("fork", 0)])
def test_a_receiver_may_end_while_messages_are_coming(
    process_bench: Bench, script: str, status: int
) -> None:
    """Also without closing anything: no thread of an engine keeps the process."""
    output, (config,) = process_bench.describe(10)
    receiver = process_bench.start_receiver(script, config)
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == "listening\n"
    engine = process_bench.engine()
    output_port = OutputPort(output, engine, process_bench.board)

    def ended() -> bool:
        output_port.send(bytes(1000))
        return receiver.poll() is not None

    until(ended, "the end of the receiver")
    assert receiver.returncode == status
    assert int(receiver.stdout.read()) >= 1  # the first of those that its queue still held


def test_messages_of_a_restarted_sender_arrive(process_bench: Bench) -> None:
    bench = process_bench
    output, (config,) = bench.describe(10)
    port = bench.port(config)
    for run in range(3):
        assert bench.start_sender("end", output).wait(LIMIT) == 0
        assert sequences([port.take(), port.take()]) == [2 * run + 1, 2 * run + 2]


def test_two_processes_may_open_the_same_channel_at_once(process_bench: Bench) -> None:
    bench = process_bench
    output, inputs = bench.describe(10, 10, 10)
    sender = bench.start_sender("end", output)
    for config in inputs:
        bench.port(config)
    assert sender.wait(LIMIT) == 0


def _shared_memory(bench: Bench) -> int:
    """Return how many files there are in the shared memory of a run."""
    return sum(len(files) for place in Path("/dev/shm").glob(f"{bench.prefix}*") for files in _files(place))


def _files(place: Path) -> Iterator[list[str]]:
    yield [place.name]
    yield from (files for _, _, files in os.walk(place))


# --------------------------------------------------------------------------- full shared memory


@needs_own_shm
def test_a_full_shared_memory_is_an_error_with_its_figures_and_not_a_crash(process_bench: Bench) -> None:
    output, _ = process_bench.describe()
    sender = process_bench.start_sender("fill", output, *within_own_shm("8m"))
    printed, _ = sender.communicate(timeout=LIMIT)
    assert sender.returncode == 0, printed
    size, sentence = printed.splitlines()[0].split(" ", 1)
    assert int(size) >= 1 << 20
    needed = f"{(int(size) + 64) / 1e6:.1f} MB"
    assert sentence.startswith(f"output `{output.id}`: the message needs {needed} of shared memory")
    assert "/dev/shm has only" in sentence
    assert "enlarge it" in sentence
    assert printed.splitlines()[1] == "alive"


def test_a_message_of_300_megabytes_arrives(process_bench: Bench) -> None:
    output_port, (port,) = process_bench.link(1)
    status = os.statvfs("/dev/shm")
    if status.f_bavail * status.f_frsize < 400_000_000:
        pytest.skip("/dev/shm is too small here")
    size = 300_000_000
    head = output_port.message(b"")[:64]
    head = head[:16] + size.to_bytes(8, "little") + head[24:]
    loan = output_port.sender.loan(64 + size)
    ctypes.memmove(loan.address, head, 64)
    marks = {0: b"first", size // 2: b"middle", size - 4: b"last"}
    for offset, mark in marks.items():
        ctypes.memmove(loan.address + 64 + offset, mark, len(mark))
    loan.send()
    array = decode_arrow(port.take())
    assert len(array) == size
    for offset, mark in marks.items():
        assert array.slice(offset, len(mark)).to_numpy().tobytes() == mark
