"""A coordinator and a daemon that several tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from system import System, own_system


@pytest.fixture(scope="module")
def system_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Run a coordinator and a daemon for the tests of a module."""
    with (
        pytest.MonkeyPatch.context() as patch,
        own_system(tmp_path_factory.mktemp("shared"), patch) as system,
    ):
        system.dora("up")
        yield system


@pytest.fixture
def shared(system_of_module: System, tmp_path: Path) -> Iterator[System]:
    """Return `system_of_module` in a folder of this test's own; dataflows end with the test."""
    yield System(tmp_path)
    system_of_module.end_dataflows()
