"""Fixtures that create engines and clean up after them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from linking import HAS_ICEORYX, Bench

needs_iceoryx = pytest.mark.skipif(not HAS_ICEORYX, reason="iceoryx2 is not available here")


def _engines(*names: str) -> list[Any]:
    return [pytest.param(name, marks=needs_iceoryx if name == "iceoryx2" else ()) for name in names]


def _bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = Bench(request.param)
    try:
        yield bench
    finally:
        bench.close()


bench = pytest.fixture(params=_engines("iceoryx2", "shm", "local"))(_bench)
process_bench = pytest.fixture(params=_engines("iceoryx2", "shm"), name="process_bench")(_bench)
iceoryx_bench = pytest.fixture(params=_engines("iceoryx2"), name="iceoryx_bench")(_bench)
shm_bench = pytest.fixture(params=["shm"], name="shm_bench")(_bench)
