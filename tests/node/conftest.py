"""Every test of nodes gets its daemons from here, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fake_daemon import FakeDaemon, StartFlow

from dora.dataflow.model import Dataflow, NodeSpec, Types


@pytest.fixture
def start_flow() -> Iterator[StartFlow]:
    """``start_flow(*nodes)``: a daemon for a dataflow of these nodes."""
    daemons: list[FakeDaemon] = []

    def start(
        *nodes: NodeSpec,
        working_dir: str = "/nowhere",
        descriptor: Any = None,
        types: Types = Types(),  # noqa: B008 - immutable
        **options: Any,
    ) -> FakeDaemon:
        dataflow = Dataflow(nodes, working_dir, descriptor=descriptor or {}, types=types)
        daemons.append(FakeDaemon(dataflow, **options))
        return daemons[-1]

    yield start
    for daemon in daemons:
        daemon.close()
