"""Dataflows in folders of their own, without the user's telemetry."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from otlp_collector import Collector
from shared_template import left_by_runs, share_template
from traced_flow import Flow


@pytest.fixture
def flow(tmp_path: Path, runtime_root: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flow]:
    for name in list(os.environ):
        if name.startswith(("OTEL_", "DORA_OTLP_", "DORA_JAEGER_", "DORA_TRACE")):
            monkeypatch.delenv(name)
    share_template(runtime_root)
    yield Flow(tmp_path)
    assert not left_by_runs(runtime_root), "a run left its directory"


@pytest.fixture
def collector() -> Iterator[Collector]:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    collector = Collector()
    yield collector
    collector.close()
