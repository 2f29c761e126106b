"""Values with which tests give runs each of their options, and what catches the run itself."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

import pytest

from dora.daemon.options import ForegroundRunOptions, Option, RunOptions, options_of


class Caught(Exception):
    """What would have been run: a run in this process, or one on a coordinator."""

    def __init__(self, options: RunOptions) -> None:
        self.options = options


def sample(option: Option) -> tuple[list[str], Any]:
    """Return an option as the command line has it, and its value, which is not the default."""
    if get_origin(option.type) is Literal:
        *_, last = get_args(option.type)
        return [option.flag, last], last
    if option.type is float:
        return [option.flag, "1m"], 60.0
    if option.type is not bool:
        return [option.flag, "COLOUR=red"], {"COLOUR": "red"}
    if option.value:
        return [f"{option.flag}=false"], False
    return ([option.no_flag], False) if option.no_flag else ([option.flag], True)


def named(options: tuple[Option, ...]) -> Any:
    return pytest.mark.parametrize("option", options, ids=lambda option: option.name)


def catch_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what would run a dataflow raise `Caught`, through the command line as well."""
    for option in options_of(ForegroundRunOptions):
        if option.variable:
            monkeypatch.delenv(option.variable, raising=False)

    def catch(_: object, options: Any, *_args: object, **_others: object) -> None:
        raise Caught(options)

    monkeypatch.setattr("dora.api.run_loaded", catch)
    monkeypatch.setattr("dora.cluster.client.Client.start", lambda _, spec: catch(_, spec))
    monkeypatch.setenv("DORA_DEBUG", "1")  # exceptions leave the command line
