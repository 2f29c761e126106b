"""``dora new``: create a folder with a dataflow, node or operator that runs and passes its tests."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import click

from dora._paths import PACKAGE
from dora._version import __version__
from dora.errors import DoraError, cannot_write

KINDS = ("dataflow", "node", "operator")
TEMPLATES = Path(PACKAGE, "templates")
_TAKEN = {"demo", "tests", "demo-sender", "demo-receiver"}  # by other parts of the templates
_USED = {"pytest"}  # by the templates, even where it is not installed
_ELSEWHERE = {"rust", "c", "cxx"}


@click.command()
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice(KINDS),
    default="dataflow",
    help="What to create: a dataflow of three nodes, a package with a node, or an operator [dataflow].",
)
@click.option("--lang", default="python", metavar="LANGUAGE", help="Language; only python is supported.")
def new(name: str, kind: str, lang: str) -> None:
    """Create a folder with a new dataflow, node or operator.

    The folder NAME must not exist yet. Its content runs with `dora run --strict` and has tests for pytest.
    """
    if lang != "python":
        hint = "; dora-rs has templates for it" if lang in _ELSEWHERE else ""
        raise click.UsageError(f"--lang {lang}: this dora creates nodes in python only{hint}")
    fault = name_fault(name, kind)
    if fault:
        raise click.UsageError(f"`{name}` cannot be the name: it {fault}")
    create(name, kind)
    click.echo(
        f"Created the {kind} `{name}`. Next:\n\n"
        f"  cd {name}\n"
        "  dora run --strict        # run it; what goes wrong is an error\n"
        "  python -m pytest         # test it (pip install pytest)"
    )


def module_name(name: str) -> str:
    """Return the name of the Python module for a package called ``name``."""
    return re.sub(r"[-.]+", "_", name).lower()


def name_fault(name: str, kind: str) -> str:
    """Return why a name cannot be used, as the end of a sentence; "" if it can."""
    from importlib.util import find_spec
    from keyword import iskeyword

    from dora.dataflow.yaml.tree import resolve

    if "/" in name or os.sep in name:
        return "is a path; change to the parent folder and give only the name"
    if not re.fullmatch(r"[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?", name):
        return (
            "has to start with a letter, end with a letter or digit, "
            "and consist of a-z, digits, `-`, `_` and `.`"
        )
    if name.lower() == "dora":
        return "is reserved"
    if kind == "dataflow":
        return ""
    module = module_name(name)
    if name in _TAKEN:
        return f"is the name of another part of the new {kind}"
    if not isinstance(resolve(name), str):
        return "is no text in YAML, so it cannot be the id of a node"
    # The new module would hide an installed one, which dora itself may import.
    if iskeyword(module) or module in {*sys.stdlib_module_names, *_USED} or find_spec(module) is not None:
        return f"would make a Python module `{module}`, a name that is already taken"
    return ""


def create(name: str, kind: str) -> None:
    """Fill the folder ``name`` in the current directory from the templates of a kind.

    Raises `DoraError` if it exists or cannot be written; nothing is left behind then.
    """
    target = Path(name)
    try:
        target.mkdir()
    except FileExistsError:
        raise DoraError(f"`{name}` exists already; give another name, or remove it first") from None
    except OSError as error:
        raise DoraError(f"cannot make the folder `{name}`: {error.strerror}") from None
    words = {"name": name, "module": module_name(name), "version": __version__}

    def filled(text: str) -> str:
        return re.sub("@(name|module|version)@", lambda found: words[found[1]], text)

    template = TEMPLATES / kind
    file = target
    try:
        for source in sorted(template.rglob("*.in")):
            file = target / filled(str(source.relative_to(template)).removesuffix(".in"))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(filled(source.read_text(encoding="utf-8")), encoding="utf-8")
    except OSError as error:
        shutil.rmtree(target, ignore_errors=True)
        raise cannot_write(file, error) from None
