"""Every example in a docstring of the package is true."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import dora

ROOT = Path(dora.__file__).parent
NEEDS_RERUN = ("nodes", "rerun")  # its modules have tests of their own


def modules_with_examples() -> list[str]:
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[:2] != NEEDS_RERUN and ">>> " in path.read_text(encoding="utf-8"):
            found.append(".".join(["dora", *(part for part in parts if part != "__init__")]))
    return found


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("DORA_COORDINATOR_ADDR", "DORA_COORDINATOR_PORT"):
        monkeypatch.delenv(variable, raising=False)  # examples speak of the defaults
    assert doctest.testmod(import_module(name)).failed == 0
