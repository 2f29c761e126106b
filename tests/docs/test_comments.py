"""Each lock of the package has a comment: which threads it keeps apart, and why they must be."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "dora"
LOCKS = {"Condition", "Lock", "RLock"}


def comments_of(code: str) -> set[int]:
    """Return the numbers of the lines that have a comment."""
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    return {token.start[0] for token in tokens if token.type == tokenize.COMMENT}


def locks_without_comment(code: str) -> Iterator[int]:
    """Yield the lines on which a lock is made, with no comment there or on the line before."""
    if not any(f"{lock}(" in code for lock in LOCKS):
        return  # nearly all modules have none, and need not be parsed
    commented = comments_of(code)
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.Assign | ast.AnnAssign) or not isinstance(node.value, ast.Call):
            continue
        function = node.value.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        has_lock = name == "Condition" and node.value.args  # one that was made before, with its comment
        if name in LOCKS and not has_lock and not commented & {node.lineno - 1, node.lineno}:
            yield node.lineno


@pytest.mark.lengthy
def test_each_lock_says_what_it_is_for() -> None:
    assert [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line in locks_without_comment(path.read_text(encoding="utf-8"))
    ] == []


def test_a_lock_without_a_comment_is_found() -> None:
    code = "a = Lock()\nb = threading.RLock()  # b\n# c\nc: Any = asyncio.Condition()\n\n"
    code += "d = Condition(b)\nself.e = Lock()\n"
    assert list(locks_without_comment(code)) == [1, 7]
