"""A folder for tests with a second user."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Return a folder that every user can enter.

    pytest closes the folders above ``tmp_path`` to others when it starts, also one that runs beside.
    """
    with tempfile.TemporaryDirectory(prefix="dora-test-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)
