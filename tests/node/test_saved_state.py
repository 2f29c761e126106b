"""The file with the state that a node saves."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dora.node.saved_state import StateFile, StateInMemory


def test_a_state_that_is_not_bytes_is_refused_and_leaves_the_state_before(tmp_path: Path) -> None:
    config: Any = SimpleNamespace(node_id="a", state_file=str(tmp_path / "state"))
    wrong: Any = 7
    for store in (StateFile(config), StateInMemory()):
        store.save(b"before")
        with pytest.raises(TypeError):
            store.save(wrong)
        assert store.load() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
