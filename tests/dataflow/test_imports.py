"""Which files a program consists of, and which of them a change concerns."""

from __future__ import annotations

from pathlib import Path

import pytest

from dora.daemon.reload import imports as module
from dora.daemon.reload.imports import CodeFiles, Sources


class Project:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.sources = Sources()

    def write(self, **files: str) -> None:
        """Write files; ``pkg__part`` is ``pkg/part.py``."""
        for name, text in files.items():
            path = self.path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def path(self, name: str) -> Path:
        return self.root / f"{name.replace('__', '/')}.py"

    def program(self, main: str = "main", *roots: str) -> CodeFiles:
        roots = tuple(str(self.root / root) for root in roots or (".",))
        return CodeFiles(str(self.path(main)), roots, self.sources)

    def read_again(self, name: str) -> None:
        self.sources.read_again([str(self.path(name))])

    def names(self, files: frozenset[str]) -> set[str]:
        return {str(Path(file).relative_to(self.root)) for file in files}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.mark.lengthy
@pytest.mark.parametrize(
    "text",
    ["for", "\0", "-" * 200_000 + "1", "x" + ".x" * 200_000],
    ids=["syntax", "zero", "MemoryError", "RecursionError"],
)
def test_a_file_that_cannot_be_read_imports_nothing(project: Project, text: str) -> None:
    project.write(main="import helper", helper=text)
    assert project.names(project.program().files) == {"main.py", "helper.py"}


@pytest.mark.parametrize(
    "statement",
    [
        "import helper",
        "import helper as h, os",
        "from helper import thing",
        "from helper import *",
        "def later():\n    import helper",
        "try:\n    import helper\nexcept ImportError:\n    helper = None",
    ],
)
def test_a_module_beside_the_program(project: Project, statement: str) -> None:
    project.write(main=statement, helper="thing = 1", unrelated="")
    assert project.names(project.program().files) == {"main.py", "helper.py"}


@pytest.mark.parametrize(
    "statement",
    ["import pkg.part", "from pkg import part", "from pkg.part import thing", "from pkg.part import *"],
)
def test_a_module_in_a_package_comes_with_the_package(project: Project, statement: str) -> None:
    project.write(main=statement, pkg__part="thing = 1", pkg__other="")
    (project.root / "pkg" / "__init__.py").write_text("")
    assert project.names(project.program().files) == {"main.py", "pkg/__init__.py", "pkg/part.py"}


def test_a_package_without_init(project: Project) -> None:
    project.write(main="import pkg.part", pkg__part="")
    assert project.names(project.program().files) == {"main.py", "pkg/part.py"}


def test_relative_imports(project: Project) -> None:
    project.write(main="import a.b.one", a__b__one="from . import two\nfrom ..c import three", a__b__two="")
    project.write(a__c="three = 3")
    assert project.names(project.program().files) == {"main.py", "a/b/one.py", "a/b/two.py", "a/c.py"}


def test_the_first_root_with_a_module_wins(project: Project) -> None:
    project.write(main="import helper", one__helper="", two__helper="import far", two__far="")
    assert project.names(project.program("main", "one", "two").files) == {"main.py", "one/helper.py"}


def test_installed_packages_are_not_part_of_a_program(project: Project) -> None:
    project.write(main="import os, numpy, dora.node, no_such_module", dora__node="")
    assert project.names(project.program().files) == {"main.py"}


def test_a_module_that_comes_later(project: Project) -> None:
    project.write(main="import a, os, numpy.linalg", a="from . import b\nfrom .c import d")
    program = project.program()
    missing = {"numpy", "b", "c"}
    assert project.names(program.missing) == {f"{name}.py" for name in missing} | {
        f"{name}/__init__.py" for name in missing
    }
    assert project.names(program.stale(frozenset({str(project.path("b"))}))) == {"main.py", "a.py"}
    project.write(b="")
    program.follow()
    assert project.names(program.files) == {"main.py", "a.py", "b.py"}


def test_modules_that_import_each_other(project: Project) -> None:
    project.write(main="import a", a="import b", b="import a, main")
    program = project.program()
    assert project.names(program.files) == {"main.py", "a.py", "b.py"}
    assert program.stale(frozenset({str(project.path("b"))})) == program.files


def test_importers_of_a_changed_module_are_stale_as_well(project: Project) -> None:
    project.write(main="import top, other", top="import deep", deep="", other="")
    program = project.program()
    stale = program.stale(frozenset({str(project.path("deep"))}))
    assert project.names(stale) == {"main.py", "top.py", "deep.py"}
    assert program.stale(frozenset({"/elsewhere.py"})) == frozenset()


def test_changed_imports_are_followed(project: Project) -> None:
    project.write(main="import a", a="", b="import c", c="")
    program = project.program()
    project.write(main="import b")
    project.read_again("main")
    program.follow()
    assert project.names(program.files) == {"main.py", "b.py", "c.py"}


@pytest.mark.parametrize("text", ["import a, (", "\0", None])
def test_a_file_that_cannot_be_read_keeps_its_imports(project: Project, text: str | None) -> None:
    project.write(main="import a", a="")
    program = project.program()
    if text is None:
        project.path("main").unlink()
    else:
        project.write(main=text)
    project.read_again("main")
    program.follow()
    assert project.names(program.files) == {"main.py", "a.py"}


def test_of_a_program_with_too_many_files_the_nearest_ones_count(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_FILES", 3)
    project.write(main="import a, b", a="import far", b="import far", far="")
    assert project.names(project.program().files) == {"main.py", "a.py", "b.py"}
