"""Fixtures for pytest; active wherever dora is installed. Nothing is imported until one is used.

``dora_mock_node``
    The class `MockNode`.
``dora_node``, ``dora_operator``
    The functions `run_node` and `run_operator`.
``dora_dataflow``
    A function that makes a `VirtualDataflow`, which is closed at the end of the test. A failure of a node
    that the test has not seen by then fails the test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from dora.testing.dataflow import VirtualDataflow
    from dora.testing.mock import MockNode
    from dora.testing.single import NodeRun


@pytest.fixture
def dora_mock_node() -> type[MockNode]:
    """Return `dora.testing.MockNode`: a stand-in for the `Node` that a function takes."""
    from dora.testing.mock import MockNode

    return MockNode


@pytest.fixture
def dora_node() -> Callable[..., NodeRun]:
    """Return `dora.testing.run_node`: run one node by itself, in virtual time."""
    from dora.testing.single import run_node

    return run_node


@pytest.fixture
def dora_operator() -> Callable[..., NodeRun]:
    """Return `dora.testing.run_operator`: run one operator by itself, in virtual time."""
    from dora.testing.single import run_operator

    return run_operator


@pytest.fixture
def dora_dataflow() -> Iterator[Callable[..., VirtualDataflow]]:
    """Return what makes a `dora.testing.VirtualDataflow`: a whole dataflow in virtual time."""
    from dora.testing.dataflow import VirtualDataflow

    made: list[VirtualDataflow] = []

    def make(dataflow: Any, **options: Any) -> VirtualDataflow:
        if made:
            made[-1].close()
        made.append(VirtualDataflow(dataflow, **options))
        return made[-1]

    yield make
    with ExitStack() as stack:
        # Called last to first: all are closed before a failure is raised, since an open one would break
        # the tests that follow. If several have failed, the failure of the first one is raised.
        for flow in made:
            stack.callback(flow.raise_failure)
        for flow in made:
            stack.callback(flow.close)
