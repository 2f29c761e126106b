"""Tests that need several machines say so here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from hosts import Host, missing, network


@pytest.fixture(scope="session")
def namespaces() -> None:
    """Skip where there can be no network namespaces."""
    if reason := missing():
        pytest.skip(reason)


@pytest.fixture
def make_hosts(namespaces: None) -> Iterator[Callable[..., dict[str, Host]]]:  # noqa: ARG001
    """Return `network` as a function; the hosts go with the test."""
    with ExitStack() as stack:
        yield lambda *names, **options: stack.enter_context(network(*names, **options))
