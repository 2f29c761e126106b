"""The settings of tools that no other test uses, CI among them; and assertions that cannot fail."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TypeGuard

import pytest
import yaml

ROOT = Path(__file__).parents[1]
KINDS = ("added", "changed", "fixed", "removed")


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.processes
def test_the_ci_workflow_is_valid() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    done = subprocess.run(
        [*command, ".github/workflows/ci.yml"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_ci_tests_every_supported_python() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    tested = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    declared = re.findall(
        r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text()
    )
    assert set(declared) <= set(tested)


def test_ci_runs_commands_that_exist() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    commands = {step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step}
    known = {".ci/run python3"} | {f"make {target}" for target in make_targets()}
    assert commands <= known


def test_pre_commit_runs_the_tools_of_make_lint() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    programs = {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in hooks}
    linted = re.findall(
        r"^\t\$\(BIN\)/(\w+)",
        re.search(r"^lint:.*?\n\n", (ROOT / "Makefile").read_text(), re.MULTILINE | re.DOTALL)[0],  # type: ignore[index]
        re.MULTILINE,
    )
    assert set(linted) <= programs


def test_every_make_target_that_is_documented_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text() + (ROOT / "README.md").read_text()
    assert set(re.findall(r"`make ([a-z0-9-]+)", text)) <= make_targets()


def test_every_path_in_the_settings_exists() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    named = re.findall(
        r"(?:\./)?((?:src|tests|tools|docs|examples|benchmarks|licenses|frontend)/[\w./*-]*)", text
    )
    assert len(named) > 5
    assert [path for path in named if not any(ROOT.glob(path.rstrip("/")))] == []


def test_changelog_fragments_have_a_kind_and_a_text() -> None:
    for file in (ROOT / "changelog.d").iterdir():
        if file.name not in ("README.md", "template.md"):
            assert re.fullmatch(rf"\+[a-z0-9-]+\.({'|'.join(KINDS)})\.md", file.name), file.name
            assert file.read_text().strip(), file.name


# --------------------------------------------------------------------------- assertions that cannot fail

TESTS = [path for path in sorted((ROOT / "tests").rglob("*.py")) if "programs" not in path.parts]
NEVER_NEGATIVE = {"len", "sum", "count", "size", "index"}  # functions and methods


@cache  # not while tests are collected: it takes seconds
def trees() -> dict[Path, ast.Module]:
    """Return all files of the tests, parsed."""
    return {path: ast.parse(path.read_text()) for path in TESTS}


def cannot_fail(test: ast.expr) -> bool:
    """Return whether a condition looks as if it could not be false."""
    match test:
        case ast.Constant():
            return bool(test.value)
        case ast.List(elts=[_, *_]) | ast.Tuple(elts=[_, *_]) | ast.Dict(keys=[_, *_]):
            return True
        case ast.GeneratorExp() | ast.Lambda() | ast.JoinedStr():
            return True
        case ast.Compare(left=left, ops=[ast.Eq() | ast.Is() | ast.GtE() | ast.LtE()], comparators=[right]):
            runs_code = any(isinstance(part, ast.Call | ast.Subscript) for part in ast.walk(left))
            if ast.dump(left) == ast.dump(right) and not runs_code:
                return True
            return isinstance(test.ops[0], ast.GtE) and is_zero(right) and is_never_negative(left)
        case ast.BoolOp(op=ast.Or(), values=values):
            denied = {ast.dump(each.operand) for each in values if is_not(each)}
            # `x == 0 or not x` says the same twice, and `x or not x` nothing.
            subjects = [each.left if is_comparison_with_zero(each) else each for each in values]
            return any(map(cannot_fail, values)) or any(ast.dump(each) in denied for each in subjects)
        case ast.BoolOp(op=ast.And(), values=values):
            return any(map(cannot_fail, values))
        case ast.IfExp(body=body, orelse=orelse):
            return any(cannot_fail(each) or is_at_least_zero(each) for each in (body, orelse))
    return False


def is_zero(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value == 0


def is_comparison_with_zero(test: ast.expr) -> TypeGuard[ast.Compare]:
    return isinstance(test, ast.Compare) and is_zero(test.comparators[0])


def is_not(value: ast.expr) -> TypeGuard[ast.UnaryOp]:
    return isinstance(value, ast.UnaryOp) and isinstance(value.op, ast.Not)


def is_at_least_zero(test: ast.expr) -> bool:
    """Return whether a condition is the one that somebody writes who has none."""
    return (
        isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.GtE) and is_zero(test.comparators[0])
    )


def is_never_negative(value: ast.expr) -> bool:
    if not isinstance(value, ast.Call):
        return False
    function = value.func
    name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
    return name in NEVER_NEGATIVE


@pytest.mark.parametrize(
    "text",
    [
        "x == x",
        "len(x) >= 0",
        "x == 0 or not x",
        "x or not x",
        "x or True",
        "a == b if c else x >= 0",
        "(a == b, 'reason')",
        "(each for each in x)",
        "a == b and len(x) >= 0",
        "'text'",
    ],
)
def test_assertions_that_cannot_fail_are_recognised(text: str) -> None:
    assert cannot_fail(ast.parse(text, mode="eval").body)


@pytest.mark.slow
@pytest.mark.lengthy
def test_every_assertion_can_fail() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert) and cannot_fail(node.test)
    ]
    assert found == []


Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def uses(function: Function) -> set[str]:
    """Return the names of functions, fixtures and methods that a function uses."""
    found = {argument.arg for argument in function.args.args}
    for node in ast.walk(function):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
    return found


@pytest.mark.lengthy
def test_every_test_asserts_something() -> None:
    """By itself, or by a function that does; of functions with the same name, any."""
    asserting = {"raises", "fail", "warns", "check_schema"}
    known = [(each.name, uses(each), each) for tree in trees().values() for each in functions(tree)]
    asserting |= {
        name
        for name, _, function in known
        if any(isinstance(node, ast.Assert | ast.Raise) for node in ast.walk(function))
    }
    while more := {name for name, used, _ in known if used & asserting} - asserting:
        asserting |= more
    assert [name for name, _, _ in known if name.startswith("test_") and name not in asserting] == []
