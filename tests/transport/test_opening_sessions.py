"""Opening Zenoh sessions; Zenoh reads the number of threads from the environment."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import zenoh

from dora.transport.network.zenoh_router import open_session

VARIABLE = "ZENOH_RUNTIME"


def test_threads_that_open_sessions_at_once_leave_the_environment_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    another = threading.Event()
    seen = []

    def fake_open(config: Any) -> Any:
        overlaps = another.is_set()
        another.set()
        threading.Event().wait(0.002)  # seconds in which another one could come
        seen.append((overlaps, os.environ[VARIABLE]))
        another.clear()
        return config

    monkeypatch.setattr(zenoh, "open", fake_open)
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda number: open_session(number, f"threads {number}"), range(8)))  # type: ignore[arg-type, return-value]
    assert opened == list(range(8))
    assert sorted(seen) == [(False, f"threads {number}") for number in range(8)]
    assert VARIABLE not in os.environ


def test_the_environment_of_the_user_has_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "mine")
    monkeypatch.setattr(zenoh, "open", lambda _: os.environ[VARIABLE])
    config: Any = None
    assert open_session(config, "ours") == "mine"  # type: ignore[comparison-overlap]
    assert os.environ[VARIABLE] == "mine"
