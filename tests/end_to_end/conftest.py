"""A private place for the runs of each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from flow import Flow
from shared_template import share_template


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests with the mark `both_ways` twice: with a template process, and without one."""
    if metafunc.definition.get_closest_marker("both_ways") is not None:
        metafunc.parametrize("flow", ["template", "plain"], indirect=True)


@pytest.fixture
def flow(request: pytest.FixtureRequest, tmp_path: Path, runtime_root: str) -> Iterator[Flow]:
    share_template(runtime_root)
    flow = Flow(tmp_path, runtime_root)
    flow.preload = {"template": True, "plain": False}.get(getattr(request, "param", ""))
    yield flow
    try:
        flow.assert_nothing_left()
    finally:
        flow.kill_the_rest()
