"""Whatever happens in whatever order: what a port with a safe state gives out fits together."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from clock import MILLISECOND
from hypothesis import given, settings
from hypothesis import strategies as st

from dora.node.events import DeadlineMet, DeadlineMissed, Event, Input, InputClosed
from dora.node.receive import safe_state
from dora.node.receive.safe_state import SafeStateInput
from dora.transport.board import SENT, WORDS
from dora.wire.node_config import InputConfig
from dora.wire.output_rules import OutputRules, SafeState

SILENCE = 20


class _Content:
    def __init__(self, sequence: int) -> None:
        self.sequence = sequence


class _Board:
    words = memoryview(bytearray(8 * WORDS * 2)).cast("Q")


class _Port:
    """A port with a queue; messages are numbered before they arrive, as those of a real sender.

    The deadline is missed when a step says so, and something may happen right behind it.
    """

    def __init__(self) -> None:
        self.id, self.is_data, self.open, self.detached = "in", True, True, False
        self.queue: deque[int] = deque()
        self.on_the_way: deque[int] = deque()
        self.numbered = self.dropped = 0
        self.source_ended = False
        self.is_late = self.was_late = False
        self.behind_the_miss = ""

    def poll(self) -> Event | None:
        if self.is_late:
            self.is_late, self.was_late = False, True
            if self.behind_the_miss:
                self.arrive()
            self.source_ended |= self.behind_the_miss == "close"
            return DeadlineMissed("in", 0.0)
        if self.queue:
            if self.was_late:
                self.was_late = False
                return DeadlineMet("in", 0.0)
            event = Input({"kind": "dora", "type": "INPUT", "id": "in"})
            event._content = _Content(self.queue.popleft())  # type: ignore[assignment]
            return event
        if self.source_ended and self.open:
            self.open = False
            return InputClosed("in")
        return None

    def count_as_dropped(self) -> None:
        self.dropped += 1

    def number(self) -> None:
        self.numbered += 1
        self.on_the_way.append(self.numbered)
        _Board.words[WORDS + SENT] = self.numbered

    def arrive(self) -> None:
        self.queue.extend(self.on_the_way)
        self.on_the_way.clear()

    def ready(self) -> bool:
        return bool(self.queue)

    def wake_at(self) -> int | None:
        return None


STEPS = st.lists(
    st.sampled_from(
        ["number", "arrive", "send", "poll", "poll", "poll", "fail", 15, 25, "miss", "miss, arrive"]
    ),
    min_size=5,
    max_size=40,
)


@pytest.mark.lengthy
@settings(deadline=None, max_examples=200)
@given(STEPS, STEPS, st.sets(st.sampled_from(["failed", "silent", "deadline"]), min_size=1))
def test_the_events_of_a_port_with_a_safe_state_fit_together(
    steps: list[Any], after_the_end: list[Any], when: set[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        _run([*steps, "close", *after_the_end], when, patch)
        _run([*steps, "miss, close", "poll", *after_the_end], when, patch)
        _run(steps, when, patch)


def _run(steps: list[Any], when: set[str], patch: pytest.MonkeyPatch) -> None:
    now = 1_000_000 * MILLISECOND
    patch.setattr(safe_state, "_monotonic", lambda: now)
    patch.setattr(Input, "sequence", property(lambda event: getattr(event._content, "sequence", 0)))
    _Board.words[WORDS + SENT] = 0
    port = _Port()
    silence = SILENCE * MILLISECOND if "silent" in when else 0
    rules = OutputRules(safe_state=SafeState((0,), "int64", tuple(sorted(when)), {}, silence))  # type: ignore[arg-type]
    item = InputConfig("in", "link", "a/out", slot=0, output_slot=1, source_rules=rules)
    told: list[bool] = []
    wrapped = SafeStateInput(port, item, _Board, lambda _id, _reason, entered, _s: told.append(entered))  # type: ignore[arg-type]
    given_out: list[Event] = []
    numbered_at_entry: list[int] = []
    for step in steps:
        if isinstance(step, int):
            now += step * MILLISECOND
        elif step == "poll":
            if (event := wrapped.poll()) is not None:
                given_out.append(event)
        elif step == "fail":
            wrapped.source_failed()
        elif step == "close":
            port.arrive()
            port.source_ended = True
        elif port.source_ended:
            pass
        elif step.startswith("miss"):
            if not port.queue:
                port.is_late, port.behind_the_miss = True, step.partition(", ")[2]
        else:
            if step != "arrive":
                port.number()
            if step != "number":
                port.arrive()
        if sum(told) > len(numbered_at_entry):
            numbered_at_entry.append(port.numbered)
    while (event := wrapped.poll()) is not None:
        given_out.append(event)
        if sum(told) > len(numbered_at_entry):
            numbered_at_entry.append(port.numbered)

    kinds = [event["type"] for event in given_out]
    is_safe, entries, last, delivered = False, 0, 0, 0
    for index, event in enumerate(given_out):
        match event["type"]:
            case "SAFE_STATE_ENTERED":
                assert not is_safe
                assert event["reason"] in when
                assert kinds[index + 1] == "INPUT"  # the safe value comes with it
                is_safe = True
                last = max(last, numbered_at_entry[entries])
                entries += 1
            case "SAFE_STATE_LEFT":
                assert is_safe
                # A failure may come between this event and its message, which then counts as dropped.
                assert kinds[index + 1] in ("INPUT", "SAFE_STATE_ENTERED")
                is_safe = False
            case "INPUT":
                number = getattr(event._content, "sequence", 0)
                if number:
                    assert not is_safe
                    assert number > last
                    last, delivered = number, delivered + 1
                else:
                    assert kinds[index - 1] == "SAFE_STATE_ENTERED"
            case "INPUT_CLOSED":
                assert is_safe or "failed" not in when
    assert kinds.count("INPUT_CLOSED") == (1 if not port.open else 0)
    assert delivered + port.dropped + len(port.queue) + len(port.on_the_way) == port.numbered
    assert told == [kind == "SAFE_STATE_ENTERED" for kind in kinds if kind.startswith("SAFE_STATE")]
