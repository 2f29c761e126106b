"""The files that `make generated` writes are up to date."""

from __future__ import annotations

import runpy
from pathlib import Path

TOOLS = Path(__file__).parents[2] / "tools"


def test_the_list_of_commands_is_up_to_date() -> None:
    tool = runpy.run_path(str(TOOLS / "write_commands.py"))
    assert tool["PAGE"].read_text() == tool["page"](), "run `make generated`"


def test_the_list_of_the_options_of_a_run_is_up_to_date() -> None:
    tool = runpy.run_path(str(TOOLS / "write_run_options.py"))
    assert tool["PAGE"].read_text() == tool["page"](), "run `make generated`"


def test_what_shows_the_counters_and_statuses_is_up_to_date() -> None:
    tool = runpy.run_path(str(TOOLS / "write_counters.py"))
    assert tool["PAGE"].read_text() == tool["page"](), "run `make generated`"
    for file, text in (("SCRIPT", "script"), ("STATUSES", "statuses")):
        assert tool[file].read_text() == tool[text](), "run `make generated`, and build the front end"
