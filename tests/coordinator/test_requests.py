"""The coordinator asks the machines of a dataflow."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from dora.cluster.coordinator.requests import MachineGone, Requests
from dora.wire.daemon_protocol import Inspect


def test_a_machine_that_is_back_without_its_nodes_is_not_asked() -> None:
    run = SimpleNamespace(has_partition=lambda _: False)
    fleet: Any = SimpleNamespace(run=lambda _: run, connections={"right": object()})
    requests = Requests(SimpleNamespace(), fleet)  # type: ignore[arg-type]
    with pytest.raises(MachineGone, match="`right` has no part of the dataflow at the moment; try again"):
        asyncio.run(requests.ask("d", "right", Inspect()))
