"""Tracebacks stay together, whatever comes around them."""

from __future__ import annotations

import traceback

import pytest

from dora.daemon.logs.parse import MAX_LINES, Tracebacks


def gather(lines: list[str]) -> list[tuple[str, bool]]:
    tracebacks = Tracebacks()
    found = [item for line in lines for item in tracebacks.add(line)]
    found += tracebacks.flush()
    assert not tracebacks.holds
    return found


def formatted(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)).rstrip("\n")


def plain_error() -> BaseException:
    try:
        raise ValueError("no")
    except ValueError as error:
        return error


def chained_error() -> BaseException:
    try:
        try:
            raise KeyError("first")
        except KeyError as cause:
            try:
                raise ValueError("second") from cause
            except ValueError:
                raise OSError("third")  # noqa: B904 - that is the case under test
    except OSError as error:
        return error


def grouped_error() -> BaseException:
    try:
        raise ExceptionGroup("several", [plain_error(), KeyError("x")])
    except ExceptionGroup as error:
        return error


@pytest.mark.parametrize("make", [plain_error, chained_error, grouped_error])
def test_a_traceback_is_one_message(make) -> None:
    text = formatted(make())
    assert gather(["before", *text.split("\n"), "after"]) == [
        ("before", False),
        (text, True),
        ("after", False),
    ]


def test_two_unchained_tracebacks_are_two_messages() -> None:
    text = formatted(plain_error())
    assert gather([*text.split("\n"), "", *text.split("\n")]) == [(text, True), ("", False), (text, True)]


def test_an_incomplete_traceback_is_released() -> None:
    lines = formatted(plain_error()).split("\n")[:-1]
    assert gather(lines) == [("\n".join(lines), True)]


def test_a_traceback_without_end_comes_in_pieces() -> None:
    lines = ["Traceback (most recent call last):", *["  again"] * (MAX_LINES + 5)]
    found = gather(lines)
    assert [is_traceback for _, is_traceback in found] == [True, *[False] * 6]
    assert len(found[0][0].split("\n")) == MAX_LINES


def test_a_program_with_a_syntax_error() -> None:
    lines = ['  File "/w/a.py", line 1', "    def x(:", "          ^", "SyntaxError: invalid syntax"]
    assert gather([*lines, "after"]) == [("\n".join(lines), True), ("after", False)]
