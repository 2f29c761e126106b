"""What `import dora` offers, and nothing else."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import dora
import dora.errors
import dora.testing

SOURCE = Path(dora.__file__)


def test_dunder_all_is_sorted_and_every_name_exists() -> None:
    assert list(dora.__all__) == sorted(dora.__all__)
    assert len(set(dora.__all__)) == len(dora.__all__)
    for name in dora.__all__:
        assert getattr(dora, name) is not None


def test_dunder_all_matches_type_checkers_and_run_time() -> None:
    checked = next(node for node in ast.parse(SOURCE.read_text()).body if isinstance(node, ast.If))
    typed = {
        alias.name: item.module
        for item in checked.body
        if isinstance(item, ast.ImportFrom)
        for alias in item.names
    }
    assert set(typed) | {"__author__", "__implementation__", "__version__"} == set(dora.__all__)
    assert typed == dora._HOMES


def test_dir_shows_the_public_names() -> None:
    assert dir(dora) == sorted(dora.__all__)
    assert dir(dora.testing) == sorted(dora.testing.__all__)


def test_every_name_comes_from_its_declared_module() -> None:
    for name, module in dora._HOMES.items():
        assert getattr(importlib.import_module(module), name) is getattr(dora, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'dora' has no attribute 'Nodes'"):
        dora.Nodes  # noqa: B018
    with pytest.raises(ImportError):
        exec("from dora import Nodes")


def test_every_error_of_a_user_is_public_and_a_runtime_error() -> None:
    raised = {
        name
        for name, value in vars(dora.errors).items()
        if isinstance(value, type) and issubclass(value, BaseException)
    }
    assert raised <= set(dora.__all__)
    for name in raised:
        assert issubclass(getattr(dora, name), dora.DoraError)
    assert issubclass(dora.DoraError, RuntimeError)


def test_the_documented_tree_of_errors_matches_the_code() -> None:
    drawn = [
        (line.split("──", 1)[1].split()[0], line.index("──"))
        for line in (dora.errors.__doc__ or "").splitlines()
        if "──" in line
    ]
    parents = {0: "DoraError"}
    for name, depth in drawn:
        parent = parents[max(d for d in parents if d < depth)]
        parents = {d: n for d, n in parents.items() if d < depth} | {depth: name}
        assert getattr(dora, name).__mro__[1].__name__ == parent, name
    assert {name for name, _ in drawn} | {"DoraError", "Problem"} == set(dora.errors.__all__)


def test_the_version_is_that_of_the_interface_and_the_implementation_that_of_the_distribution() -> None:
    from importlib.metadata import version

    assert int(dora.__version__.partition(".")[0]) >= 1  # what programs written for dora-rs require
    assert version("dora-rs") == f"{dora.__version__}+dora.dataflow"
    assert dora.__implementation__ == f"dora-dataflow {version('dora-dataflow')}"


def test_dora_cli_has_the_names_of_dora_rs_cli() -> None:
    import dora_cli
    from dora.cli.main import main

    for name in ("__version__", "build", "run", "start_runtime"):
        assert getattr(dora_cli, name) is getattr(dora, name)
    assert dora_cli.py_main is main


def test_the_package_is_typed() -> None:
    assert (SOURCE.parent / "py.typed").exists()
