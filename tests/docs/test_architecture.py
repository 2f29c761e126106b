"""The architecture page, the design notes and the glossary speak of the code as it is."""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "dora"
DOCS = ROOT / "docs"

sys.path.insert(0, str(ROOT / "tools" / "site"))
import journeys  # noqa: E402

PAGES = [DOCS / "architecture.md", DOCS / "glossary.md", *sorted((DOCS / "design").glob("*.md"))]
CODE = re.compile(r"`([^`]+)`")
PATH = re.compile(r"[a-z0-9_]+(/[a-z0-9_]+)*(\.py|/)|[a-z0-9_]+(/[a-z0-9_]+)+")
CLASS = re.compile(r"[A-Z][a-z0-9]+([A-Z][a-z0-9]+)+")
# Class-like names that are not the code's.
OTHERS = {"OpenTelemetry", "SameSite", "HttpOnly"}
# Paths that are not there: those of the plan that the code does not follow, and a folder of users.
PLANNED = {"architecture.md": ["parse/", "load.py"], "trust-model.md": ["out/", "out/"]}


@cache
def names() -> set[str]:
    """Return every word of the code."""
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        found.update(re.findall(r"\w+", path.read_text(encoding="utf-8")))
    return found


def definitions(module: str) -> set[str]:
    text = (PACKAGE / module).read_text(encoding="utf-8")
    return set(re.findall(r"^(?:class|def|async def) (\w+)", text, re.MULTILINE))


def missing_paths(text: str) -> list[str]:
    """Return the paths of a page that do not exist; a bare file name belongs to the folder before it."""
    missing = []
    folder = PACKAGE
    for line in text.splitlines():
        for code in CODE.findall(line):
            if not PATH.fullmatch(code):
                continue
            known = [base / code for base in (folder, PACKAGE, ROOT) if (base / code).exists()]
            if known:
                folder = known[0] if known[0].is_dir() else known[0].parent
            elif "/" in code or code.endswith(".py"):
                missing.append(code)
    return missing


def test_the_page_stays_short() -> None:
    assert len((DOCS / "architecture.md").read_text().split()) <= 1800


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_paths_exist(page: Path) -> None:
    assert missing_paths(page.read_text()) == PLANNED.get(page.name, [])


def test_source_paths_on_all_pages_exist() -> None:
    pages = [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), ROOT / "frontend" / "README.md"]
    named = {path for page in pages for path in re.findall(r"`(src/dora/[\w/.]+)`", page.read_text())}
    assert {path for path in named if not (ROOT / path).exists()} == set()


@pytest.mark.lengthy
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_classes_exist(page: Path) -> None:
    found = {code for code in CODE.findall(page.read_text()) if CLASS.fullmatch(code)}
    assert found - names() - OTHERS == set()


@pytest.mark.parametrize("name", journeys.JOURNEYS)
def test_a_picture_is_up_to_date(name: str) -> None:
    picture = (journeys.IMAGES / f"journey-{name}.svg").read_text()
    assert picture == journeys.draw(journeys.JOURNEYS[name]), "run: python tools/site/journeys.py"


@pytest.mark.parametrize("name", journeys.JOURNEYS)
def test_a_picture_uses_the_names_of_the_code(name: str) -> None:
    journey = journeys.JOURNEYS[name]
    for participant in journey.participants:
        if participant.name != "Supervisor":  # its rules are functions, in modules of their own
            assert participant.name in definitions(participant.place), participant
        assert (PACKAGE / participant.place).exists(), participant
    codes = [code for step in journey.steps for code in CODE.findall(step.text)]
    words = {word for code in codes for word in re.findall(r"\w+", code)}
    assert words - names() == set()
