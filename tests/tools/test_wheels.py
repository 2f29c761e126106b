"""The packages that dora needs have wheels for a board: nothing is compiled there."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from dora.daemon.processes.interpreter import find_uv

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BOARD = "aarch64-manylinux_2_28"  # Debian 12 has 2.36 of the GNU C library, Ubuntu 20.04 has 2.31
VERSIONS = ["3.11", "3.12", "3.13", "3.14"]

pytestmark = [pytest.mark.processes, pytest.mark.packages]


def resolve(tmp_path: Path, version: str, wanted: list[str]) -> tuple[list[str], str]:
    """Return the packages that an installation on a board needs, all with wheels, or what is wrong."""
    uv = find_uv()
    if uv is None:
        pytest.skip("uv is not installed")
    (tmp_path / "requirements.in").write_text("\n".join(wanted))
    done = subprocess.run(
        [
            *(uv, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--only-binary", ":all:"),
            *("--python-platform", BOARD, "--python-version", version, "requirements.in"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    return [line.partition("==")[0] for line in done.stdout.splitlines()], done.stderr


def requirements(*extras: str) -> list[str]:
    """Return the requirements of an extra, and of the extras that it names; "" stands for dora itself."""
    found: list[str] = []
    for extra in extras:
        for text in PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]:
            name, _, rest = text.partition("[")
            found += requirements(*rest.rstrip("]").split(",")) if name == PROJECT["name"] else [text]
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_a_board_gets_dora_without_a_compiler(tmp_path: Path, version: str) -> None:
    packages, wrong = resolve(tmp_path, version, requirements(""))
    assert not wrong
    assert {"pyarrow", "numpy", "uv"} <= set(packages)
    assert {"iceoryx2", "eclipse-zenoh"}.isdisjoint(packages)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("extra", PROJECT["optional-dependencies"])
def test_a_board_gets_every_extra_without_a_compiler(tmp_path: Path, version: str, extra: str) -> None:
    packages, wrong = resolve(tmp_path, version, requirements("", extra))
    assert not wrong
    assert len(packages) > len(PROJECT["dependencies"])


def test_a_package_without_a_wheel_for_boards_is_noticed(tmp_path: Path) -> None:
    packages, wrong = resolve(tmp_path, "3.11", ["iceoryx2>=0.10,<0.11"])
    assert not packages
    assert "iceoryx2" in wrong and "no usable wheels" in wrong
