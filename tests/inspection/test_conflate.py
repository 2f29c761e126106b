"""What waits for somebody on another machine: the newest, and little of it."""

from __future__ import annotations

import doctest

import hypothesis.strategies as st
from hypothesis import given

from dora.observe.queries import Line
from dora.observe.remote import conflate
from dora.observe.remote.conflate import MOST_BYTES, ConflatedQueue
from dora.observe.remote.protocol import QueryEnded, decode_delivery


def test_the_examples_in_the_code() -> None:
    assert doctest.testmod(conflate).failed == 0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5000)), max_size=200), st.integers(1, 20))
def test_the_newest_come_in_order_and_the_others_are_counted(
    puts: list[tuple[str, int]], keep: int
) -> None:
    waiting = ConflatedQueue()
    for number, (key, size) in enumerate(puts):
        waiting.put(key, Line(key, f"{number} {'x' * size}"), keep)
    came: list[Line] = []
    while not waiting.is_empty:
        came += [item for item in decode_delivery(waiting.take()) if isinstance(item, Line)]
    numbers = [int(line.text.split()[0]) for line in came]
    assert numbers == sorted(numbers)
    for key in "abc":
        of_key = [number for number, (name, _) in enumerate(puts) if name == key]
        seen = [number for number in numbers if puts[number][0] == key]
        assert seen == of_key[len(of_key) - len(seen) :], "not the newest ones"
        assert len(seen) <= keep and len(seen) + waiting.lost[key] == len(of_key)
        assert bool(seen) == bool(of_key)


def test_no_more_than_so_many_bytes_wait_or_travel_at_once() -> None:
    waiting = ConflatedQueue()
    for number in range(100):
        waiting.put("a", Line("a", f"{number} {'x' * 10_000}"), keep=1000)
    assert 100 - waiting.lost["a"] == MOST_BYTES // 10_020
    waiting.put("b", Line("b", "y" * 2 * MOST_BYTES))  # one of each key always waits
    waiting.put("over", QueryEnded())
    deliveries = []
    while not waiting.is_empty:
        deliveries.append(waiting.take())
    assert len(deliveries) == 3
    assert [type(item) for item in decode_delivery(deliveries[-1])] == [QueryEnded]
