"""Every status of a node that is declared has a use, and is explained."""

from __future__ import annotations

from typing import get_args

import pytest

from dora.cli.commands.node import list_nodes
from dora.daemon.requests import _STATUS
from dora.daemon.supervisor.status import Phase
from dora.wire.node_status import StatusWord

OF_RUNNING_DATAFLOWS = [status for status in StatusWord if status is not StatusWord.RECORDED]


def test_each_phase_has_a_status() -> None:
    assert set(_STATUS) == set(get_args(Phase))


@pytest.mark.parametrize("status", OF_RUNNING_DATAFLOWS)
def test_the_help_of_node_list_has_each_status(status: StatusWord) -> None:
    assert str(status) in " ".join((list_nodes.help or "").split())
