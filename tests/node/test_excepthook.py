"""Tracebacks end where the program ends."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from dora.errors import DoraError
from dora.node.daemon_client import connect
from dora.node.process import end_tracebacks_at_the_program, print_traceback_of_program
from dora.transport.board import Board
from dora.wire.encode import encode

Shown = list[tuple[BaseException, list[str]]]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    """What would be printed: errors with the functions in their tracebacks."""
    shown: Shown = []

    def record(_: Any, error: BaseException, trace: Any) -> None:
        shown.append((error, [frame.name for frame in traceback.extract_tb(trace)]))

    monkeypatch.setattr(sys, "excepthook", record)
    monkeypatch.delenv("DORA_DEBUG", raising=False)
    return shown


def end_of(program: Callable[[], object]) -> None:
    try:
        program()
    except BaseException as error:  # noqa: BLE001 - what the interpreter does
        sys.excepthook(type(error), error, error.__traceback__)


def send_nonsense() -> None:
    encode(5)


def test_the_traceback_of_an_error_of_dora_ends_with_the_line_of_the_program(shown: Shown) -> None:
    end_tracebacks_at_the_program()
    end_tracebacks_at_the_program()  # every Node does, once is enough
    end_of(send_nonsense)
    ((_, frames),) = shown
    assert frames == ["end_of", "send_nonsense"]


def test_the_cause_of_an_error_of_dora_is_removed_with_the_frames_of_dora(
    shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DORA_NODE_CONFIG", "nonsense")
    end_tracebacks_at_the_program()
    end_of(lambda: connect(None))
    ((error, frames),) = shown
    assert frames == ["end_of", "<lambda>"]
    assert error.__cause__ is None and error.__suppress_context__


def test_tracebacks_of_other_errors_stay_whole(shown: Shown) -> None:
    def refuse() -> None:
        raise DoraError("mine") from ValueError()

    end_tracebacks_at_the_program()
    end_of(lambda: Board.open("/nowhere"))
    end_of(refuse)
    (_, ours), (error, own) = shown
    assert ours == ["end_of", "<lambda>", "open", "open_own"]
    assert own == ["end_of", "refuse"]
    assert isinstance(error.__cause__, ValueError)


def test_dora_debug_shows_whole_tracebacks(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DORA_DEBUG", "1")
    end_tracebacks_at_the_program()
    end_of(send_nonsense)
    assert shown[0][1][:3] == ["end_of", "send_nonsense", "encode"]


def test_the_traceback_of_an_operator_begins_with_its_own_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DoraError) as caught:
        send_nonsense()
    assert print_traceback_of_program(caught.value)
    printed = capsys.readouterr().err
    assert "in send_nonsense" in printed and "in encode" not in printed


def test_an_error_that_no_line_of_an_operator_led_to_has_no_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert not print_traceback_of_program(DoraError("no class `Operator`"))
    assert capsys.readouterr().err == ""
