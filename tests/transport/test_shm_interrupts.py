"""Exceptions of signal handlers in the middle of sending and receiving through the engine ``shm``.

CPython runs handlers after calls of C functions, and at the beginning of functions of Python. A profiler is
called at the same places; so here it raises the exception, at each of them in turn.
"""

from __future__ import annotations

import gc
import itertools
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from linking import LIMIT, Bench, InputPort, OutputPort

from dora.transport.shm.engine import ShmReceiver, ShmSender
from dora.transport.shm.ring import MAX_HELD
from dora.wire.decode import decode_arrow, decode_bytes, decode_numpy

LARGE = 20_000  # bytes: sent as a loan, and held by the receiver


class Interrupt(BaseException):
    pass


def interrupted(work: Callable[[], Any], at: int) -> bool:
    """Do something, and raise an exception at the n-th place; return False if it has fewer."""
    left = at

    def profile(frame: FrameType, event: str, function: object) -> None:
        nonlocal left
        if event not in ("call", "c_return") or function is sys.setprofile or in_destructor(frame):
            return
        left -= 1
        if left < 0:
            sys.setprofile(None)
            raise Interrupt

    sys.setprofile(profile)
    try:
        work()
    except Interrupt:
        return True
    finally:
        sys.setprofile(None)
    return False


def in_destructor(frame: FrameType | None) -> bool:
    """Return whether Python would print the exception and go on."""
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


def sender_of(port: OutputPort) -> ShmSender:
    assert isinstance(port.sender, ShmSender)
    return port.sender


def check_account(output_port: OutputPort, ports: list[InputPort]) -> None:
    """Check that nothing is lost for good: no slot, no cell and no block."""
    gc.collect()
    for _ in range(2):  # the first one puts everything in order
        output_port.send(b"x" * LARGE)
        output_port.send(b"x")
        for port in ports:
            port.take_all()
    gc.collect()
    sender = sender_of(output_port)
    sender._reclaim()
    sender._ready = None
    sender._put_in_order()
    pool = sender.pool
    assert {size: len(idle) for size, idle in pool._idle.items() if idle} == pool._total
    assert len(set().union(*pool._idle.values())) == sum(pool._total.values()), "a block is idle twice"
    assert all(segment.idle == len(segment.blocks) for segment in pool._segments.values())
    files = {path.name.rpartition(".")[2] for path in Path(sender._channel.folder).glob("s.*")}
    assert files == {str(number) for number in pool._segments}
    assert not sender.lent
    for ring in sender._targets:
        assert ring._blocks == [None] * ring._slots
        assert not ring.is_out
    for port in ports:
        assert isinstance(port.receiver, ShmReceiver)
        for incoming in port.receiver._incoming:
            assert sorted(incoming.ring.cells) == list(range(MAX_HELD))
            assert incoming.ring._hand < 0


def places() -> Iterator[int]:
    return itertools.count()


@pytest.mark.lengthy
@pytest.mark.parametrize("size", [10, LARGE])
@pytest.mark.parametrize("queue_size", [1, 3])
def test_an_interrupted_receiver_loses_nothing_but_perhaps_its_message(
    shm_bench: Bench, size: int, queue_size: int
) -> None:
    output_port, (port,) = shm_bench.link(queue_size)
    for at in places():
        numbers = []
        for _ in range(queue_size):
            output_port.send(bytes([at % 251]) * size)
            numbers.append(output_port.board.get(output_port.config.slot, 0))
        was_interrupted = interrupted(port.receiver.receive, at)
        received = port.take_all()
        assert all(decode_bytes(message) == bytes([at % 251]) * size for message in received)
        sequences = [message.sequence for message in received]
        assert sequences in (numbers, numbers[1:])
        del received
        if not was_interrupted:
            break
    assert at > 8
    check_account(output_port, [port])


@pytest.mark.lengthy
@pytest.mark.parametrize("size", [10, LARGE])
@pytest.mark.parametrize("queue_size", [1, 3])
@pytest.mark.parametrize("is_full", [False, True])
def test_an_interrupted_sender_loses_nothing_but_perhaps_its_message(
    shm_bench: Bench, size: int, queue_size: int, is_full: bool
) -> None:
    output_port, ports = shm_bench.link(queue_size, queue_size)
    for at in places():
        for _ in range(queue_size if is_full else 0):
            output_port.send(b"before" * 2000)
        message = output_port.message(bytes([at % 251]) * size)
        loans: list[Any] = []

        def send(message: bytes = message, loans: list[Any] = loans) -> None:
            if size == LARGE:
                loans.append(output_port.sender.loan(len(message)))
                loans[0].memory[: len(message)] = message
                loans[0].send()
            else:
                output_port.sender.send(message)
                output_port.sender.prepare()

        was_interrupted = interrupted(send, at)
        loans.clear()
        output_port.send(b"after")
        for port in ports:
            bodies = [decode_bytes(each) for each in port.take_all()]
            assert bodies[-1] == b"after"
            assert set(bodies) <= {b"before" * 2000, bytes([at % 251]) * size, b"after"}
        if not was_interrupted:
            break
    assert at > 15
    check_account(output_port, ports)


@pytest.mark.lengthy
def test_what_a_program_holds_stays_while_its_sender_is_interrupted(shm_bench: Bench) -> None:
    output_port, (port,) = shm_bench.link(3)
    kept = []
    for at in places():
        output_port.send(bytes([at % 251]) * LARGE)
        kept.append((at, decode_numpy(port.take())))
        if len(kept) > 5:
            former, array = kept.pop(0)
            assert array.tobytes() == bytes([former % 251]) * LARGE
            del array
        if not interrupted(lambda: output_port.send(b"y" * LARGE), at):
            break
        port.take_all()
    for former, array in kept:
        assert array.tobytes() == bytes([former % 251]) * LARGE
    kept.clear()
    del array
    check_account(output_port, [port])


def test_what_is_prepared_lent_or_held_stays_after_an_interruption(shm_bench: Bench) -> None:
    output_port, (former, port) = shm_bench.link(10, 10)
    sender = output_port.sender
    assert isinstance(sender, ShmSender)
    output_port.send(b"1" * 10_000)
    held = decode_arrow(former.take())
    former.receiver.close()
    port.take()
    loan = output_port.fill(output_port.message(b"2" * 10_000))
    sender.prepare()
    sender._seen = -1  # as after any exception
    for number in range(3, 9):
        sender.send(output_port.message(bytes([number]) * 100))
    for number in range(9, 12):
        output_port.send(bytes([number]) * 10_000)
    loan.send()
    sizes = [100] * 6 + [10_000] * 3
    for number, size in enumerate(sizes, 3):
        assert decode_bytes(port.take()) == bytes([number]) * size
    assert decode_bytes(port.take()) == b"2" * 10_000
    assert held.buffers()[1].to_pybytes() == b"1" * 10_000


@pytest.mark.slow
@pytest.mark.lengthy
@pytest.mark.parametrize("role", ["sender", "receiver"])
def test_a_port_that_is_interrupted_while_it_meets_another_one_meets_it_next_time(
    shm_bench: Bench, role: str
) -> None:
    output_port, (port,) = shm_bench.link(3)
    for at in places():
        newcomer = shm_bench.port(port.config)
        if role == "sender":
            was_interrupted = interrupted(lambda: output_port.send(b"first"), at)
        else:
            output_port.send(b"first")
            was_interrupted = interrupted(newcomer.receiver.receive, at)
        output_port.send(b"second")
        assert decode_bytes(newcomer.take_all()[-1]) == b"second"
        newcomer.receiver.close()
        port.take_all()
        if not was_interrupted:
            break
    assert at > 15
    check_account(output_port, [port])


@pytest.mark.lengthy
def test_signals_at_random_moments_lose_no_slot_and_no_memory(shm_bench: Bench) -> None:
    """The same with real signals: places that CPython has, and a profiler does not see."""
    output_port, (port,) = shm_bench.link(3)
    moments, done = random.Random(1), threading.Event()
    raises, count, handled = False, 0, 0

    def handler(_: int, frame: FrameType | None) -> None:
        nonlocal count, raises, handled
        is_raised = raises and not in_destructor(frame)
        if is_raised:
            raises = False
            count += 1
        handled += 1
        if is_raised:
            raise Interrupt

    def send_signals() -> None:
        main = threading.main_thread().ident
        assert main is not None
        sent = 0
        while not done.is_set():
            if handled == sent:  # else a slow machine would handle signals within handlers, without end
                sent += 1
                signal.pthread_kill(main, signal.SIGUSR1)
            time.sleep(moments.uniform(0.0, 5e-5))

    former = signal.signal(signal.SIGUSR1, handler)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread = threading.Thread(target=send_signals)
    thread.start()
    kept: list[Any] = []
    deadline = time.monotonic() + LIMIT
    try:
        while count < 1000:
            assert time.monotonic() < deadline, f"only {count} signals came in time"
            try:
                raises = True
                output_port.send(b"x" * moments.choice((10, 5000, LARGE)))
                message = port.receiver.receive()
                raises = False
            except Interrupt:
                continue
            if message is not None:
                kept.append(decode_numpy(message))
                assert (kept[-1] == ord("x")).all()
            del kept[:-5]
    finally:
        raises = False
        done.set()
        thread.join()
        sys.setswitchinterval(interval)
        signal.signal(signal.SIGUSR1, former)
    message = None
    kept.clear()
    check_account(output_port, [port])
