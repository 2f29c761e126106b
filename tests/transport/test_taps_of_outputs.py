"""Taps come and go while a dataflow runs, and leave nothing behind."""

from __future__ import annotations

import gc
import glob
import weakref
from collections.abc import Iterator

import pytest
from linking import Bench, OutputPort, sequences

from dora.transport.shm.channel import TAP
from dora.transport.taps import Tap, TapEngine, open_taps
from dora.wire.daemon_protocol import Inspection, OutputView


@pytest.fixture
def taps(process_bench: Bench) -> Iterator[TapEngine]:
    bench = process_bench
    engine = open_taps(Inspection("id", None, bench.name, bench.run_dir, bench.prefix, "board", [], []))
    yield engine
    engine.close()


def view_of(port: OutputPort) -> OutputView:
    config = port.config
    return OutputView(
        config.id,
        config.slot,
        service=config.service,
        max_queue_size=config.max_queue_size,
        max_receivers=config.max_receivers,
    )


def seen(tap: Tap) -> list[int]:
    return sequences(list(iter(tap.receive, None)))


def test_many_taps_may_be_opened_and_closed_one_after_the_other(
    process_bench: Bench, taps: TapEngine
) -> None:
    output_port, (port,) = process_bench.link(10)
    output = view_of(output_port)
    closed = []  # which closes them, not the garbage collector
    for number in range(1, 3 * output.max_receivers):
        tap = taps.tap(output, 10)
        output_port.send(b"x")
        assert seen(tap) == [number]
        taps.close_tap(tap)
        closed.append(tap)
        assert tap.receive() is None
        assert port.take().sequence == number


@pytest.mark.lengthy
def test_a_closed_tap_that_nobody_has_any_more_is_gone(process_bench: Bench, taps: TapEngine) -> None:
    output_port, _ = process_bench.link(10)
    tap = taps.tap(view_of(output_port), 10)
    gone = weakref.ref(tap)
    taps.close_tap(tap)
    del tap
    gc.collect()
    assert gone() is None


def test_closing_all_taps_closes_those_that_are_left(process_bench: Bench, taps: TapEngine) -> None:
    output_port, _ = process_bench.link(10)
    closed, left = (taps.tap(view_of(output_port), 10) for _ in range(2))
    taps.close_tap(closed)
    taps.close()
    output_port.send(b"x")
    assert left.receive() is None


def test_a_tap_has_the_places_that_were_asked_for_or_those_of_the_longest_queue(
    process_bench: Bench, taps: TapEngine
) -> None:
    output_port, _ = process_bench.link(10)
    short, long = (taps.tap(view_of(output_port), places) for places in (3, 1000))
    for _ in range(30):
        output_port.send(b"x")
    assert seen(short) == [28, 29, 30]
    assert seen(long) == list(range(21, 31))


def test_files_tell_taps_from_inputs_and_go_with_them(shm_bench: Bench) -> None:
    bench = shm_bench
    output_port, _ = bench.link(10)

    def files(kind: str) -> list[str]:
        return glob.glob(f"/dev/shm/{bench.prefix}links/**/{kind}.*", recursive=True)

    before = files("p"), files("r"), files("c")
    taps = open_taps(Inspection("id", None, "shm", bench.run_dir, bench.prefix, "board", [], []))
    closed, left = (taps.tap(view_of(output_port), 10) for _ in range(2))
    assert [name.endswith(TAP) for name in {*files("r")} - {*before[1]}] == [True, True]
    taps.close_tap(closed)
    assert len(files("r")) == len(before[1]) + 1
    taps.close()
    assert left.receive() is None
    output_port.send(b"x")  # the sender gives up the rings of both
    assert (files("p"), files("r"), files("c")) == before
