"""Fixtures that let contexts of an engine meet."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest
from ros_meeting import NAME_ENGINES, SERVICE_ENGINES, Meeting, engine_params, meeting

# It imports Cyclone DDS, which has wheels for x86-64 only.
collect_ignore = [] if importlib.util.find_spec("cyclonedds") else ["test_dds_engine.py"]


@pytest.fixture(params=engine_params(), name="engines")
def _engines(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Meeting]:
    with meeting(request.param, monkeypatch) as found:
        yield found


@pytest.fixture(params=engine_params(SERVICE_ENGINES), name="service_engines")
def _service_engines(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Meeting]:
    with meeting(request.param, monkeypatch) as found:
        yield found


@pytest.fixture(params=engine_params(NAME_ENGINES), name="name_engines")
def _name_engines(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Meeting]:
    with meeting(request.param, monkeypatch) as found:
        yield found


@pytest.fixture(params=engine_params(("zenoh",)), name="zenoh_engine")
def _zenoh_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Meeting]:
    with meeting(request.param, monkeypatch) as found:
        yield found


@pytest.fixture(params=engine_params(("dds",)), name="dds_engine")
def _dds_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Meeting]:
    with meeting(request.param, monkeypatch) as found:
        yield found
