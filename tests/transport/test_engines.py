"""Behaviour of a single engine."""

from __future__ import annotations

import ctypes
import gc
import glob
import logging
import os
import subprocess
import sys
from typing import Any

import pytest
from linking import LIMIT, Bench, InputPort
from msgspec.structs import replace

from dora.errors import SharedMemoryFull, TransportError
from dora.transport.interface import MAX_QUEUE
from dora.transport.queues import SpilloverQueue
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
    process_bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    from dora.transport.shm.iceoryx2 import MAX_HELD

    output_port, (port,) = process_bench.link(10)
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


def test_small_messages_are_never_held(process_bench: Bench) -> None:
    output_port, (port,) = process_bench.link(10)
    kept = []
    for _ in range(200):
        output_port.send(bytes(1000))
        kept.append(decode_arrow(port.take()))
    assert held(port) == 0


def test_received_bodies_are_aligned_in_shared_memory(process_bench: Bench) -> None:
    output_port, (port,) = process_bench.link(10)
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


def test_a_closed_output_goes_on_in_one_new_sender_only(iceoryx_bench: Bench) -> None:
    output_port, _ = iceoryx_bench.link(10)
    output_port.sender.close()
    engine = iceoryx_bench.engines[-1]
    first, second = (engine.sender(output_port.config) for _ in range(2))
    assert first is output_port.sender
    assert second is not first


def test_a_queue_beyond_the_engine_spills_only_if_it_may_drop_messages(
    process_bench: Bench,
) -> None:
    """Under back-pressure the engine has room for all, and no thread is needed."""
    for policy, spills in (("drop_oldest", True), ("backpressure", False)):
        _, (port,) = process_bench.link(MAX_QUEUE + 1, policy=policy)
        assert isinstance(port.receiver, SpilloverQueue) == spills


def test_a_destroyed_output_leaves_no_memory(iceoryx_bench: Bench) -> None:
    def memory() -> list[str]:
        files = glob.glob(f"/dev/shm/{iceoryx_bench.prefix}*")
        return [path for path in files if os.stat(path).st_size > 4 << 20]

    output_port, _ = iceoryx_bench.link(10)
    output_port.send(bytes(5 << 20))
    output_port.sender.prepare()
    assert memory()
    output_port.sender.destroy()
    assert not memory()


def test_rubbish_is_dropped_and_the_next_message_arrives(
    process_bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    output_port, (port,) = process_bench.link(10)
    output_port.sender.send(b"rubbish" * 20)
    huge = output_port.message(b"")[:16] + (1 << 40).to_bytes(8, "little") + bytes(40)
    output_port.sender.send(huge)
    output_port.send(b"good")
    with caplog.at_level(logging.WARNING, "dora.transport"):
        assert decode_bytes(port.take()) == b"good"
    assert "a bad message was dropped" in caplog.text


def test_too_many_loans_are_a_clear_error(process_bench: Bench) -> None:
    output_port, _ = process_bench.link(10)
    with pytest.raises(TransportError, match="loans that were neither sent nor discarded"):
        kept = [output_port.sender.loan(100) for _ in range(100)]
    kept = []
    del kept
    gc.collect()
    output_port.send(b"goes on")


def test_a_message_larger_than_shared_memory_is_refused_with_its_size(process_bench: Bench) -> None:
    output_port, (port,) = process_bench.link(10)
    with pytest.raises(SharedMemoryFull, match=r"needs 100000000\.0 MB of shared memory"):
        output_port.sender.loan(100_000_000_000_000)
    output_port.send(b"goes on")
    assert decode_bytes(port.take()) == b"goes on"


@pytest.mark.lengthy
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
        output_port.sender.close()
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
