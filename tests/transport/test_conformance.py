"""The contract of `dora.transport.interface`, tested with every engine."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from typing import Any

import pytest
from linking import LIMIT, Bench, OutputPort, sequences, until

from dora.transport.interface import Loan
from dora.wire.decode import decode_arrow, decode_bytes, decode_numpy
from dora.wire.message import Message, pack_head
from dora.wire.metadata import decode_metadata

SIZES = [0, 1, 63, 64, 65, 4096, 4097, 65_536, 1 << 20, (16 << 20) + 1, 64 << 20]


def pattern(size: int, seed: int = 0) -> bytes:
    """Return ``size`` bytes that are wrong anywhere else."""
    block = bytes((index * 7 + seed) % 251 for index in range(251))
    return (block * (size // 251 + 1))[:size]


# --------------------------------------------------------------------------- order, queues


def test_messages_arrive_in_order_with_their_metadata_and_numbers(bench: Bench) -> None:
    output_port, (port,) = bench.link(1000)
    for index in range(500):
        output_port.send(f"message {index}".encode() * (1 if index % 50 else 1000), {"index": index})
    for index in range(500):
        message = port.take()
        assert message.sequence == index + 1
        assert decode_metadata(message.metadata) == {"index": index}
        assert decode_bytes(message) == f"message {index}".encode() * (1 if index % 50 else 1000)
    assert port.receiver.receive() is None


def test_an_empty_receiver_has_no_messages(bench: Bench) -> None:
    output_port, (port,) = bench.link(5)
    assert port.receiver.receive() is None
    assert not port.receiver.has_messages()
    output_port.send(b"x")
    until(port.receiver.has_messages)
    assert decode_bytes(port.take()) == b"x"
    assert not port.receiver.has_messages()


@pytest.mark.parametrize("queue_size", [1, 2, 10, 100])
def test_a_full_queue_keeps_exactly_the_newest_and_the_gap_shows(bench: Bench, queue_size: int) -> None:
    output_port, (port,) = bench.link(queue_size)
    for index in range(250):
        output_port.send(index.to_bytes(2, "little"))
    port.await_arrivals(250)
    kept = port.take_all()
    assert sequences(kept) == list(range(251 - queue_size, 251))
    assert [int.from_bytes(decode_bytes(message), "little") for message in kept] == list(
        range(250 - queue_size, 250)
    )


def test_a_full_queue_of_large_messages_keeps_the_newest(bench: Bench) -> None:
    output_port, (port,) = bench.link(3)
    for index in range(12):
        output_port.send(pattern(100_000, index))
    port.await_arrivals(12)
    kept = port.take_all()
    assert sequences(kept) == [10, 11, 12]
    assert [decode_bytes(message) for message in kept] == [pattern(100_000, index) for index in (9, 10, 11)]


def test_receivers_of_one_output_do_not_share_their_queues(bench: Bench) -> None:
    output_port, ports = bench.link(1, 7, 64)
    for index in range(64):
        output_port.send(bytes([index]))
    for port, queue_size in zip(ports, (1, 7, 64), strict=True):
        port.await_arrivals(64)
        assert sequences(port.take_all()) == list(range(65 - queue_size, 65))


def test_outputs_do_not_mix(bench: Bench) -> None:
    first, (first_port,) = bench.link(10)
    second, (second_port,) = bench.link(10)
    first.send(b"first")
    second.send(b"second")
    assert decode_bytes(first_port.take()) == b"first"
    assert decode_bytes(second_port.take()) == b"second"
    assert first_port.take_all() == second_port.take_all() == []


def test_an_output_without_receivers_can_be_sent_to(bench: Bench) -> None:
    output_port, _ = bench.link()
    for _ in range(100):
        output_port.send(b"nobody")
    output_port.send(bytes(100_000))


# --------------------------------------------------------------------------- sizes, loans


@pytest.mark.lengthy
@pytest.mark.parametrize("size", SIZES)
def test_every_size_arrives_whole(bench: Bench, size: int) -> None:
    output_port, (port,) = bench.link(2)
    data = pattern(size)
    output_port.send(data)
    message = port.take()
    assert message.body_size == size
    assert decode_bytes(message) == data
    assert decode_numpy(message).nbytes == size


def test_sizes_may_alternate(bench: Bench) -> None:
    output_port, (port,) = bench.link(50)
    sizes = [10, 1 << 20, 0, 5000, 3 << 20, 1, 70_000, 4096]
    for index, size in enumerate(sizes):
        output_port.send(pattern(size, index))
    for index, size in enumerate(sizes):
        assert decode_bytes(port.take()) == pattern(size, index)


@pytest.mark.parametrize("size", [10, 50_000])
def test_metadata_that_is_larger_than_a_small_message_arrives_whole(bench: Bench, size: int) -> None:
    output_port, (port,) = bench.link(10)
    metadata = {"text": "y" * 20_000}
    output_port.send(pattern(size), metadata)
    message = port.take()
    assert decode_metadata(message.metadata) == metadata
    assert decode_bytes(message) == pattern(size)


def test_prepared_memory_may_be_used_at_any_later_time(bench: Bench) -> None:
    output_port, (port,) = bench.link(50)
    output_port.sender.prepare()
    sizes = [10, 1 << 20, 3 << 20, 8000, 0, 70_000, 8192, 10, 10]
    for index, size in enumerate(sizes):
        output_port.send(pattern(size, index))
        if index % 3:
            output_port.sender.prepare()
            output_port.sender.prepare()
    for index, size in enumerate(sizes):
        assert decode_bytes(port.take()) == pattern(size, index)


def test_prepared_memory_leaves_room_for_eight_loans_and_a_message(bench: Bench) -> None:
    output_port, (port,) = bench.link(10)
    for _ in range(20):
        output_port.sender.prepare()
    loans = [output_port.fill(output_port.message(bytes([index]))) for index in range(8)]
    output_port.send(b"sent")
    for loan in loans:
        loan.send()
    assert sequences([port.take() for _ in range(9)]) == [9, *range(1, 9)]


@pytest.mark.parametrize("size", [64, 65, 128, 1000, 4096, 4097, 100_000, 5_000_000])
def test_loans_are_aligned_and_as_large_as_asked(bench: Bench, size: int) -> None:
    output_port, (port,) = bench.link(10)
    loans: list[Loan] = []
    for index in range(5):
        body = pattern(size - 64, index)
        message = output_port.message(body)
        assert len(message) == size
        loan = output_port.sender.loan(size)
        assert loan.address % 64 == 0
        assert loan.size >= size
        ctypes.memmove(loan.address, message, size)
        loans.append(loan)
    for loan in loans:
        loan.send()
    for index in range(5):
        assert decode_bytes(port.take()) == pattern(size - 64, index)


def test_a_discarded_or_dropped_loan_is_not_sent_and_costs_nothing(bench: Bench) -> None:
    output_port, (port,) = bench.link(10)
    discarded = []  # which gives the memory back, not the garbage collector
    for _ in range(100):  # far more than may be out at once
        discarded.append(output_port.sender.loan(100_000))
        discarded[-1].discard()
        output_port.sender.loan(100)
    output_port.send(b"sent")
    message = port.take()
    assert decode_bytes(message) == b"sent"
    assert port.receiver.receive() is None


def test_loans_may_be_sent_in_another_order(bench: Bench) -> None:
    output_port, (port,) = bench.link(10)
    loans = [output_port.fill(output_port.message(pattern(10_000, index))) for index in range(3)]
    for index in (2, 0, 1):
        loans[index].send()
    assert [decode_bytes(port.take()) for _ in range(3)] == [pattern(10_000, index) for index in (2, 0, 1)]


# --------------------------------------------------------------------------- lifetime of what was received


@pytest.mark.lengthy
def test_arrays_outlive_their_sender_and_receiver(bench: Bench) -> None:
    output_port, (port,) = bench.link(10)
    output_port.send(pattern(200_000, 1))
    output_port.send(pattern(100, 2))
    arrow = decode_arrow(port.take())
    numpy = decode_numpy(port.take())
    for index in range(30):  # memory that is free by mistake is overwritten now
        output_port.send(pattern(200_000, 100 + index))
        port.take()
    port.receiver.close()
    output_port.sender.close()
    gc.collect()
    assert arrow.buffers()[1].to_pybytes() == pattern(200_000, 1)
    assert numpy.tobytes() == pattern(100, 2)


def test_a_receiver_that_keeps_every_array_blocks_no_sender(bench: Bench) -> None:
    output_port, (hoarder, other) = bench.link(10, 10)
    kept = []
    for index in range(120):
        output_port.send(pattern(50_000, index))
        kept.append(decode_arrow(hoarder.take()))
        assert other.take().sequence == index + 1
    for index, array in enumerate(kept):
        assert array.buffers()[1].to_pybytes() == pattern(50_000, index)


def test_received_memory_is_read_only(bench: Bench) -> None:
    output_port, (port,) = bench.link(10)
    for size in (10, 100_000):
        output_port.send(bytes(size))
        with pytest.raises(ValueError, match="read-only"):
            decode_numpy(port.take())[0] = 1


# --------------------------------------------------------------------------- coming and going


def test_a_closed_receiver_does_not_affect_the_others(bench: Bench) -> None:
    output_port, (leaver, stayer) = bench.link(200, 200)
    for index in range(100):
        output_port.send(pattern(index * 100, index))
        if index == 50:
            stayer.await_arrivals(51)
            leaver.receiver.close()
    assert leaver.receiver.receive() is None
    assert not leaver.receiver.has_messages()
    assert [stayer.take().sequence for _ in range(100)] == list(range(1, 101))
    leaver.receiver.close()  # once more does nothing


def test_a_receiver_may_be_closed_while_another_thread_sends(bench: Bench) -> None:
    output_port, (leaver, stayer) = bench.link(4, 2000)
    halfway = threading.Event()

    def send() -> None:
        for index in range(1000):
            output_port.send(bytes(index * 10))
            if index == 300:
                halfway.set()

    thread = threading.Thread(target=send)
    thread.start()
    assert halfway.wait(LIMIT)
    leaver.receiver.close()
    thread.join(LIMIT)
    assert not thread.is_alive()
    assert [stayer.take().sequence for _ in range(1000)] == list(range(1, 1001))


@pytest.mark.lengthy
def test_a_late_receiver_gets_every_message_after_its_first(bench: Bench) -> None:
    output, inputs = bench.describe(5000, 5000)
    output.links[1].dynamic = True  # `connect` does not wait for it
    first = bench.port(inputs[0])
    sending = bench.engine()
    output_port = OutputPort(output, sending, bench.board)
    output_port.send(b"too early")
    assert first.take().sequence == 1  # so it is not under way any more
    late_engine = bench.engine()
    late = bench.port(inputs[1], late_engine)
    others: list[Message] = []

    def heard() -> Message | None:
        others.extend(first.take_all())  # its queue must not overflow, however long this takes
        output_port.send(b"can you hear me?")
        return late.receiver.receive()

    start = until(heard).sequence
    assert start > 1
    last = output_port.board.get(output.slot, 0)
    for index in range(20):
        output_port.send(bytes([index]))
    late.await_arrivals(last - start + 21)
    expected = list(range(start + 1, last + 21))
    assert sequences(late.take_all()) == expected
    others += [first.take() for _ in range(last + 19 - len(others))]
    assert sequences(others) == list(range(2, last + 21))


def test_a_second_receiver_replaces_a_closed_receiver(bench: Bench) -> None:
    output_port, (first,) = bench.link(50)
    output_port.send(b"one")
    assert first.take().sequence == 1
    first.receiver.close()
    engine = bench.engine()
    second = bench.port(first.config, engine)

    def heard() -> Message | None:
        output_port.send(b"can you hear me?")
        return second.receiver.receive()

    assert until(heard).sequence > 1


def test_ports_may_be_closed_and_opened_again_any_number_of_times(bench: Bench) -> None:
    """As a program does that joins its dataflow again and again, in one process."""
    output, (config,) = bench.describe(10)
    open_files = []
    for number in range(1, 3 * output.max_receivers):
        engine = bench.engine()
        port = bench.port(config, engine)
        output_port = OutputPort(output, engine, bench.board)
        output_port.send(b"x")
        assert port.take().sequence == number
        port.receiver.close()
        output_port.sender.close()
        engine.close()
        bench.engines.clear()
        open_files.append(len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0)
    assert open_files[-1] <= open_files[2]


def test_an_output_that_was_destroyed_may_be_made_again(bench: Bench) -> None:
    output_port, (port,) = bench.link(10)
    output_port.sender.close()
    output_port.sender.destroy()
    again = OutputPort(output_port.config, bench.engines[-1], bench.board)
    again.send(b"x")
    assert decode_bytes(port.take()) == b"x"


# --------------------------------------------------------------------------- threads


@pytest.mark.lengthy
def test_several_threads_send_and_receive_at_once(bench: Bench) -> None:
    count = 400
    links = [bench.link(count) for _ in range(3)]
    received: list[list[int]] = [[] for _ in links]

    def send(output_port: OutputPort) -> None:
        for index in range(count):
            output_port.send(pattern(index * 40, index))

    def receive(index: int, port: Any) -> None:
        for number in range(count):
            message = port.take()
            assert decode_bytes(message) == pattern(number * 40, number)
            received[index].append(message.sequence)

    threads = [threading.Thread(target=send, args=(output_port,)) for output_port, _ in links]
    threads += [
        threading.Thread(target=receive, args=(index, ports[0])) for index, (_, ports) in enumerate(links)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert received == [list(range(1, count + 1))] * 3


# --------------------------------------------------------------------------- what is inside a message


def test_the_engine_moves_messages_byte_for_byte(bench: Bench) -> None:
    output_port, (port,) = bench.link(10)
    for size in (8, 50_000):
        head = pack_head(0, b"l", b"\x81\xa1k\x07", size, 2**64 - 1, 2**63)
        body = pattern(size)
        output_port.fill(head + body).send()
        message = port.take()
        assert message.head[: message.body_offset] == head
        assert (message.sequence, message.time_ns) == (2**64 - 1, 2**63)
        assert decode_bytes(message) == body
