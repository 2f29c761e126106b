"""docs/reference/commands.md is what tools/write_commands.py makes of the commands."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_list_of_commands_is_up_to_date() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "write_commands.py"))
    written = (ROOT / "docs" / "reference" / "commands.md").read_text()
    assert written == tool["page"](), "run `make commands`"
