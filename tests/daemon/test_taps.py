"""For how many commands that look at an output there is room, and which of them record."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dora.daemon.taps import Taps
from dora.dataflow.layout import RunContext
from dora.dataflow.model import Dataflow, InputSpec, NodeOutput, NodeSpec
from dora.dataflow.plan import MAX_TAPS, plan
from dora.wire.daemon_protocol import DataflowEnded, Ok, OpenTaps, Rejected

LAYOUT = plan(
    Dataflow(
        (
            NodeSpec("a", path="a.py", outputs=("x", "y")),
            NodeSpec("b", path="b.py", inputs=(InputSpec("x", NodeOutput("a", "x")),)),
        ),
        "/",
    ),
    RunContext("id", "/run", "p_", "/board"),
)
X, Y = (output.slot for output in LAYOUT.configs["a"].outputs)


def client(number: int) -> Any:
    answers: list[object] = []
    return SimpleNamespace(number=number, answers=answers, send=answers.append)


@pytest.fixture
def full() -> Taps:
    """Taps of which there is no further one on ``X``: the clients from 0 have them."""
    taps = Taps(LAYOUT)
    for number in range(MAX_TAPS):
        assert taps.open(client(number), OpenTaps([X])) == Ok()
    assert isinstance(taps.open(client(99), OpenTaps([Y, X])), Rejected)
    return taps


def test_a_tap_that_is_closed_makes_room(full: Taps) -> None:
    assert full.close(0) == {X}
    assert full.open(client(99), OpenTaps([X])) == Ok()


def test_a_client_that_opens_taps_again_gives_up_those_that_it_had(full: Taps) -> None:
    assert full.open(client(0), OpenTaps([X, Y])) == Ok()
    assert full.open(client(0), OpenTaps([Y])) == Ok()
    assert full.open(client(99), OpenTaps([X])) == Ok()


def test_taps_of_a_client_that_died_take_room_until_a_clean_up(full: Taps) -> None:
    assert full.lose(0)
    assert not full.lose(99)  # it had none
    assert isinstance(full.open(client(99), OpenTaps([X])), Rejected)
    full.forget_lost()
    assert full.open(client(99), OpenTaps([X])) == Ok()


def test_an_output_is_recorded_while_its_recorder_lives() -> None:
    taps = Taps(LAYOUT)
    recorder, other = client(1), client(2)
    taps.open(recorder, OpenTaps([X], until_end=True))
    taps.open(other, OpenTaps([Y]))
    assert taps.recorded_slots() == {X} and taps.has_recorders
    taps.announce_end(["a"])
    assert (recorder.answers, other.answers) == ([DataflowEnded(["a"])], [])
    taps.lose(1)
    assert taps.recorded_slots() == set() and not taps.has_recorders
