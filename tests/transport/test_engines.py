"""Behaviour of a single engine."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import string
import subprocess
import sys
from typing import Any

import pytest
from linking import LIMIT, Bench, InputPort, OutputPort, make_engine, until
from msgspec.structs import replace

from dora.errors import ConnectError, SharedMemoryFull, TransportError
from dora.transport.board import (
    CLOSED,
    CONNECTED,
    DROPPED,
    FIRST,
    PROBED,
    RECEIVED,
    SENT,
    STATE,
    UNCONNECTED,
)
from dora.wire.decode import decode_arrow, decode_bytes
from dora.wire.message import Message
from dora.wire.node_config import InputConfig

# --------------------------------------------------------------------------- shared memory


def held(port: InputPort) -> int:
    """Return how many messages the program holds in shared memory."""
    from dora.transport.shm.engine import ShmReceiver
    from dora.transport.shm.iceoryx2 import IceoryxReceiver

    assert isinstance(port.receiver, (ShmReceiver, IceoryxReceiver))
    return port.receiver.held


def test_arrays_beyond_the_budget_are_copied_with_one_log_entry(
    memory_bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    from dora.transport.shm.iceoryx2 import MAX_HELD

    output_port, (port,) = memory_bench.link(10)
    kept: list[Any] = []
    with caplog.at_level(logging.WARNING, "dora.transport"):
        for index in range(MAX_HELD + 20):
            output_port.send(bytes([index]) * 10_000)
            kept.append(decode_arrow(port.take()))
            assert held(port) == min(index + 1, MAX_HELD)
    (record,) = caplog.records
    assert f"{MAX_HELD} messages are kept by the program, for example" in record.getMessage()
    assert port.config.id in record.getMessage()
    kept.clear()
    gc.collect()
    assert held(port) == 0


def test_who_may_keep_messages_is_named() -> None:
    from dora.transport.queues import MAX_QUEUE, who_keeps

    item = InputConfig("left", "link", "camera/left")
    assert who_keeps(item) == "the program, for example as arrays in a list"
    assert who_keeps(replace(item, kept_by_sync=18)) == "`sync` (up to 18) and the program"
    long = replace(item, queue_size=MAX_QUEUE + 1)
    assert who_keeps(long) == f"the queue (`queue_size: {MAX_QUEUE + 1}`) and the program"


def test_small_messages_are_never_held(memory_bench: Bench) -> None:
    output_port, (port,) = memory_bench.link(10)
    kept = []
    for _ in range(200):
        output_port.send(bytes(1000))
        kept.append(decode_arrow(port.take()))
    assert held(port) == 0


def test_received_bodies_are_aligned_in_shared_memory(memory_bench: Bench) -> None:
    output_port, (port,) = memory_bench.link(10)
    for size in (9000, 100_000, 1 << 20):
        output_port.send(bytes(size))
        assert decode_arrow(port.take()).buffers()[1].address % 64 == 0


def test_freed_memory_does_not_count_as_populated(iceoryx_bench: Bench) -> None:
    from dora.transport.shm.iceoryx2 import IceoryxSender

    output_port, (port,) = iceoryx_bench.link(10)
    sender = output_port.sender
    assert isinstance(sender, IceoryxSender)
    for size in (10, 10, 10_000, 10_000, 100_000):
        output_port.send(bytes(size))
        port.take()
        # A larger message moves the pool to a new segment and lets the former one go.
        assert all(len(view) >= size for view in sender._views.values())


def test_too_many_loans_are_a_clear_error(memory_bench: Bench) -> None:
    output_port, _ = memory_bench.link(10)
    with pytest.raises(TransportError, match="loans that were neither sent nor discarded"):
        kept = [output_port.sender.loan(100) for _ in range(100)]
    kept = []
    del kept
    gc.collect()
    output_port.send(b"goes on")


def test_a_message_larger_than_shared_memory_is_refused_with_its_size(memory_bench: Bench) -> None:
    output_port, (port,) = memory_bench.link(10)
    with pytest.raises(SharedMemoryFull, match=r"needs 100000000\.0 MB of shared memory"):
        output_port.sender.loan(100_000_000_000_000)
    output_port.send(b"goes on")
    assert decode_bytes(port.take()) == b"goes on"


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files in /proc")
@pytest.mark.parametrize("name", ["iceoryx2", "shm"])
def test_ended_runs_keep_no_files_open(name: str) -> None:
    if name == "iceoryx2":
        pytest.importorskip(name)
    open_files = []
    for _ in range(4):
        bench = Bench(name)
        output_port, (port,) = bench.link(10)
        output_port.send(b"x")
        port.take()
        bench.close()
        del bench, output_port, port
        gc.collect()
        open_files.append(len(os.listdir("/proc/self/fd")))
    # Engines that other tests have closed may still be letting go of theirs.
    assert max(open_files[2:]) <= open_files[1], open_files


@pytest.mark.processes
def test_importing_the_engine_does_not_import_numpy() -> None:
    pytest.importorskip("iceoryx2")
    script = (
        "import sys, dora.transport.shm.iceoryx2 as engine; engine.load_iceoryx2()\n"
        "assert 'numpy' not in sys.modules and 'flatbuffers' not in sys.modules, sorted(sys.modules)\n"
        "import flatbuffers; flatbuffers.Builder(0)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=LIMIT)


def test_an_observer_sees_messages_without_affecting_receivers(iceoryx_bench: Bench) -> None:
    """The observer uses only the public API of iceoryx2 and docs/wire-format.md."""
    import iceoryx2 as iox

    output_port, (port,) = iceoryx_bench.link(10)
    config = iox.config.default()
    config.global_cfg.root_path = iox.Path.new(f"{iceoryx_bench.run_dir}/iox")
    config.global_cfg.prefix = iox.FileName.new(iceoryx_bench.prefix)
    node = iox.NodeBuilder.new().config(config).create(iox.ServiceType.Ipc)
    service = (
        node.service_builder(iox.ServiceName.new(output_port.config.service))
        .publish_subscribe(iox.Slice[ctypes.c_uint8])
        .payload_alignment(iox.Alignment.new(64))
        .open()
    )
    subscriber = service.subscriber_builder().create()
    output_port.send(b"seen by both")
    sample = subscriber.receive()
    data = ctypes.string_at(sample.payload_ptr, sample.header.number_of_elements)
    sample.delete()
    assert decode_bytes(Message(data)) == b"seen by both"
    assert decode_bytes(port.take()) == b"seen by both"
    subscriber.delete()
    output_port.send(b"and on")
    assert decode_bytes(port.take()) == b"and on"


# --------------------------------------------------------------------------- zenoh


def _states(bench: Bench, output_port: OutputPort) -> list[int]:
    return [bench.board.get(link.slot, STATE) for link in output_port.config.links]


def test_connect_returns_when_every_receiver_can_be_reached(zenoh_bench: Bench) -> None:
    output_port, ports = zenoh_bench.link(10, 10, 10)
    assert _states(zenoh_bench, output_port) == [CONNECTED] * 3
    output_port.send(b"first")
    for port in ports:
        assert port.take().sequence == 1


def test_probes_are_not_messages(zenoh_bench: Bench) -> None:
    _output_port, (port,) = zenoh_bench.link(10)
    assert zenoh_bench.board.get(port.config.slot, PROBED) != 0
    assert port.arrivals == 0
    assert not port.receiver.has_messages()


def test_connect_names_the_missing_receivers(zenoh_bench: Bench) -> None:
    output, _inputs = zenoh_bench.describe(10, 10)
    engine = zenoh_bench.engine()
    engine.sender(output)
    with pytest.raises(ConnectError) as caught:
        engine.connect(0.05)
    assert str(caught.value) == (
        f"no connection to `{output.links[0].consumer}`, `{output.links[1].consumer}` within 0.05 seconds"
    )


def test_connect_returns_without_an_error_when_the_daemon_interrupts_it(zenoh_bench: Bench) -> None:
    output, _inputs = zenoh_bench.describe(10)
    engine = zenoh_bench.engine()
    engine.sender(output)
    engine.connect(3600, lambda: True)


def test_connect_waits_neither_for_absent_dynamic_nodes_nor_for_closed_links(zenoh_bench: Bench) -> None:
    output, _inputs = zenoh_bench.describe(10, 10, dynamic=True)
    output.links[1].dynamic = False
    zenoh_bench.board.set(output.links[1].slot, STATE, CLOSED)
    engine = zenoh_bench.engine()
    engine.sender(output)
    engine.connect(0)


def test_a_restarted_sender_waits_for_its_dynamic_receivers_that_are_there(zenoh_bench: Bench) -> None:
    output, (config,) = zenoh_bench.describe(10, dynamic=True)
    port = zenoh_bench.port(config)
    zenoh_bench.engines[0].connect(LIMIT)
    zenoh_bench.board.set(config.slot, STATE, CONNECTED)
    engine = zenoh_bench.engine()
    output_port = OutputPort(output, engine, zenoh_bench.board)
    engine.connect(LIMIT)
    output_port.send(b"first")
    assert port.take().sequence == 1


def test_a_link_that_lost_messages_counts_as_up_at_the_next_message(zenoh_bench: Bench) -> None:
    """Otherwise a sender under back-pressure would wait for credit for messages that never came."""
    board = zenoh_bench.board
    output, (config,) = zenoh_bench.describe(10, policy="backpressure")
    board.set(output.slot, SENT, 25)
    board.set(config.slot, FIRST, 5)
    board.set(config.slot, RECEIVED, 8)
    board.set(config.slot, DROPPED, 2)
    port = zenoh_bench.port(config)
    engine = zenoh_bench.engine()
    output_port = OutputPort(output, engine, board)
    for each in zenoh_bench.engines:
        each.connect(LIMIT)
    assert board.get(config.slot, PROBED) != 0
    assert board.get(config.slot, STATE) == UNCONNECTED
    output_port.send(b"next")
    assert port.take().sequence == 26
    assert board.get(config.slot, STATE) == CONNECTED


def test_a_closed_receiver_is_closed_on_the_board_for_good(zenoh_bench: Bench) -> None:
    output_port, (port,) = zenoh_bench.link(10)
    port.receiver.close()
    output_port.send(b"for nobody")
    assert _states(zenoh_bench, output_port) == [CLOSED]


def test_under_back_pressure_the_receiver_drops_nothing(zenoh_bench: Bench) -> None:
    output_port, (port,) = zenoh_bench.link(2, policy="backpressure")
    for _ in range(50):
        output_port.send(b"x")
    port.await_arrivals(50)
    assert len(port.take_all()) == 50


def test_invalid_messages_are_dropped_with_a_warning(
    zenoh_bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    output_port, (port,) = zenoh_bench.link(10)
    with caplog.at_level(logging.WARNING, "dora.transport"):
        for rubbish in (b"", b"short", bytes(100), bytes(100_000), output_port.message(bytes(10_000))[:-1]):
            output_port.sender.send(rubbish)
        output_port.send(b"good")
        assert decode_bytes(port.take()) == b"good"
    assert len(caplog.records) == 2  # of three: it says so when they have doubled
    assert "(2 so far)" in caplog.records[-1].getMessage()
    assert all(port.config.id in record.getMessage() for record in caplog.records)


def test_no_router_is_a_clear_error(zenoh_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dora.transport.zenoh.router._CONNECT_TIMEOUT_MS", 100)
    nowhere = f"unixsock-stream/{zenoh_bench.run_dir}/nobody"
    with pytest.raises(
        ConnectError, match="the Zenoh router of dataflow 0190-test cannot be reached at unix"
    ):
        make_engine("zenoh", "", "", nowhere, zenoh_bench.board)


def test_a_router_that_cannot_listen_is_a_clear_error() -> None:
    from dora.transport.zenoh.router import start

    with pytest.raises(TransportError, match="the Zenoh router cannot listen on"):
        start("/does/not/exist")


def test_the_router_leaves_no_socket(zenoh_bench: Bench) -> None:
    assert "zenoh.sock" in os.listdir(zenoh_bench.run_dir)
    zenoh_bench.close_router()
    until(lambda: "zenoh.sock" not in os.listdir(zenoh_bench.run_dir))


def test_every_character_of_an_id_may_be_part_of_a_key() -> None:
    import zenoh

    for character in string.ascii_letters + string.digits + "_.-":
        key = f"id/{character}/a{character}/{character}"
        assert str(zenoh.KeyExpr(key)) == key


def test_a_message_of_a_node_to_itself_arrives(zenoh_bench: Bench) -> None:
    output, (config,) = zenoh_bench.describe(10)
    engine = zenoh_bench.engine()
    port = zenoh_bench.port(config, engine)
    output_port = OutputPort(output, engine, zenoh_bench.board)
    engine.connect(LIMIT)
    for _ in range(5):
        output_port.send(bytes(100_000))
    assert [port.take().sequence for _ in range(5)] == [1, 2, 3, 4, 5]


def test_closing_while_messages_pour_in_does_not_hang(zenoh_bench: Bench) -> None:
    output_port, (port,) = zenoh_bench.link(10)
    for _ in range(2000):
        output_port.send(bytes(1000))
    receiving, sending = zenoh_bench.engines
    until(lambda: port.arrivals)
    receiving.close()
    output_port.send(b"nobody there")
    sending.close()
    receiving.close()
    sending.close()


def test_a_sender_with_a_closed_session_raises_a_clear_error(zenoh_bench: Bench) -> None:
    output_port, _ = zenoh_bench.link(10)
    zenoh_bench.engines[1].close()
    with pytest.raises(TransportError, match=f"output `{output_port.config.id}`: Zenoh cannot send"):
        output_port.send(b"x")
