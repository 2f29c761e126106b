"""The template processes of a machine, as `dora status` shows them."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from system import System
from waiting import wait_until

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="templates need Linux"),
]

HOLDS_MEMORY = """
    import yaml
    from dora import Node
    held = bytearray(b"x") * (64 << 20)
    for event in Node():
        pass
"""


def templates(system: System) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(system.dora("status", "-f", "json"))["templates"]
    return found


def test_status_shows_the_template_processes_of_the_machine(system: System) -> None:
    system.dora("up")
    wait_until(lambda: len(templates(system)) == 1, "the template process")
    (base,) = templates(system)
    assert (base["machine"], base["interpreter"], base["packages"]) == ("default", sys.executable, [])
    assert base["starts"] == 0 and base["memory"] > 1 << 20
    system.start(
        system.dataflow("arm", a="from dora import Node\nfor event in Node(): pass", b=HOLDS_MEMORY)
    )
    base, special = templates(system)
    assert (base["starts"], special["starts"], special["packages"]) == (1, 1, ["yaml"])
    assert special["since"] > base["since"]
    shown = system.dora("status")
    assert f"✓ Template process {base['pid']} on default: 1 start, " in shown
    assert f"✓ Template process {special['pid']} on default with yaml: 1 start, " in shown
    system.start(
        system.dataflow("leg", a="from dora import Node\nfor event in Node(): pass"), "--no-preload"
    )
    assert [template["starts"] for template in templates(system)] == [1, 1]
    wait_until(lambda: system.client.dataflows()[0].memory > 64 << 20, "the memory of forked nodes")
