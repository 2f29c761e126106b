"""Each row of the page on reliability names the test that produces it."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "reliability.md"
NAMED = re.compile(r"`([a-z_/]+\.py)(?: -k (\w+))?`")


def rows() -> list[str]:
    """Return the rows of all tables whose last column is `test`."""
    found, ours = [], False
    for line in PAGE.read_text().splitlines():
        if not line.startswith("|"):
            ours = False
        elif ours:
            found.append(line)
        elif line.endswith("| test |"):
            ours = True
    return [row for row in found if set(row) - set("|-: ")]


def test_every_table_has_a_column_of_tests() -> None:
    heads = re.findall(r"(?:^|\n\n)(\|[^\n]*\|)\n\| ?[-:]", PAGE.read_text())
    assert [head for head in heads if not head.endswith("| test |")] == ["| variable | default | |"]


def test_every_row_names_a_test_that_exists() -> None:
    assert len(rows()) > 50
    for row in rows():
        named = NAMED.findall(row.rstrip("| ").rpartition("|")[2])
        assert named, row
        for file, words in named:
            functions = re.findall(r"^def (test_\w+)", (TESTS / file).read_text(), re.MULTILINE)
            assert any(words in function for function in functions), (file, words)
