"""An environment as a user has it: a wheel of this checkout, and dataflows of published packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from place import TIMEOUT, Place

from dora.daemon.processes.interpreter import find_uv

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with pip, in which a wheel of this checkout is installed."""
    uv = find_uv()
    if uv is None:
        pytest.skip("uv is not installed")
    folder = tmp_path_factory.mktemp("published")
    made = folder / "venv"
    for words in (
        [uv, "build", "--quiet", "--wheel", "--out-dir", str(folder), str(ROOT)],
        [uv, "venv", "--quiet", "--seed", "--python", sys.executable, str(made)],
    ):
        subprocess.run(words, check=True, timeout=TIMEOUT)
    [wheel] = folder.glob("*.whl")
    install = [uv, "pip", "install", "--quiet", "--python", f"{made}/bin/python", str(wheel), "uv"]
    subprocess.run(install, check=True, timeout=TIMEOUT)
    return made


@pytest.fixture
def place(tmp_path: Path, environment: Path) -> Place:
    return Place(tmp_path, environment)
