"""Measure the floor of every framework: waking another process and back, and copying a payload once."""

import os
import time
from collections.abc import Callable

import numpy as np

from benchmarks.statistics import Figure, median, percentile

ROUNDS = 3000
WARM_UP = 300
COPIES = {4096: 2000, 65536: 2000, 1048576: 300, 4194304: 60, 41943040: 15}


def wake_up_round_trip() -> Figure:
    """Return the time (µs) for two Python processes to wake each other once: the floor of a round trip.

    They use an eventfd each; a pipe each where the system has no eventfd.
    """
    to_child, from_child = _bell(), _bell()
    child = os.fork()
    if not child:
        try:
            for _ in range(ROUNDS + WARM_UP):
                to_child[1]()
                from_child[0]()
        finally:
            os._exit(0)
    times_us = []
    for round_number in range(ROUNDS + WARM_UP):
        started = time.perf_counter_ns()
        to_child[0]()
        from_child[1]()
        if round_number >= WARM_UP:
            times_us.append((time.perf_counter_ns() - started) / 1e3)
    os.waitpid(child, 0)
    for bell in (to_child, from_child):
        bell[2]()
    return Figure(median(times_us), percentile(times_us, 99), ROUNDS)


def copy(size: int) -> Figure:
    """Return the time (µs) of one copy of `size` bytes between two buffers that are already mapped."""
    source, target = np.ones(size, dtype=np.uint8), np.zeros(size, dtype=np.uint8)
    times_us = []
    for _ in range(COPIES[size]):
        started = time.perf_counter_ns()
        np.copyto(target, source)
        times_us.append((time.perf_counter_ns() - started) / 1e3)
    return Figure(median(times_us), percentile(times_us, 99), len(times_us))


def _bell() -> tuple[Callable[[], object], Callable[[], object], Callable[[], None]]:
    """Return how to ring, to wait and to close."""
    if hasattr(os, "eventfd"):
        descriptor = os.eventfd(0)
        return (
            lambda: os.eventfd_write(descriptor, 1),
            lambda: os.eventfd_read(descriptor),
            lambda: os.close(descriptor),
        )
    reading, writing = os.pipe()

    def close() -> None:
        os.close(reading)
        os.close(writing)

    return lambda: os.write(writing, b"1"), lambda: os.read(reading, 1), close
