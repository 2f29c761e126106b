"""Expressions about outputs, a small language for ``dora shrink --expect 'output.bbox[0] < 640'``.

It is a part of Python's expressions: the values of outputs and their metadata, numbers, texts, indices,
arithmetic, comparisons, ``and``, ``or``, ``not``, and a few functions. An expression reads; it cannot call
methods, import, or reach anything else of the process: it also stands in tests that other people run.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from dora.dataflow.problems import listed
from dora.errors import DoraError
from dora.recording.alone.host import SentMessage
from dora.recording.alone.run import Violated
from dora.wire.decode import decode_arrow, decode_numpy
from dora.wire.message import Encoding
from dora.wire.metadata import decode_metadata

_FUNCTIONS: Final[Mapping[str, Any]] = {
    **{function.__name__: function for function in (abs, all, any, len, max, min, round, sum)},
    "isfinite": math.isfinite,
    "isnan": math.isnan,
    "sqrt": math.sqrt,
}
_OUTPUT: Final = "output"
_METADATA: Final = "metadata"
_NODES: Final = (
    *(ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.UAdd),
    *(ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod),
    *(ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn),
    *(ast.Constant, ast.Name, ast.Load, ast.Attribute, ast.Subscript, ast.Slice, ast.Tuple, ast.List),
    ast.Call,
)
_SHOWN: Final = 60  # characters of a value


class Expectation:
    """An expression that is true for each message of the outputs that it names.

    >>> expectation = Expectation("output.bbox[0] < 640 and len(output['left/found']) > 0")
    >>> expectation.outputs
    ['bbox', 'left/found']
    """

    def __init__(self, text: str) -> None:
        """Parse an expression; raises `DoraError` if it is none, or more than one of this language."""
        self.text = text.strip()
        self.outputs: list[str] = []
        self.checked = 0  # messages for which it had a value
        self._newest: dict[str, Any] = {}
        self._metadata: dict[str, Any] = {}
        try:
            tree = ast.parse(self.text, mode="eval")
        except (SyntaxError, ValueError, RecursionError) as error:
            why = error.msg if isinstance(error, SyntaxError) else error
            raise DoraError(f"`{text}` is no expression: {why}; write for example {_EXAMPLE}") from None
        for part in ast.walk(tree):
            self._check(part)
        if not self.outputs:
            raise DoraError(f"`{text}` names no output; write for example {_EXAMPLE}")
        self._code = compile(ast.fix_missing_locations(_Lookup().visit(tree)), "<expectation>", "eval")

    def check_outputs(self, node_id: str, outputs: Sequence[str]) -> None:
        """Raise `DoraError` if the expression names an output that is not one of a node's ``outputs``."""
        for name in self.outputs:
            if name not in outputs:
                raise DoraError(f"node `{node_id}` has no output `{name}`; it has {listed(outputs)}")

    def check(self, sent: SentMessage) -> None:
        """Raise `Violated` if the expression is false with this message, and the newest of the others.

        Nothing is said while an output has no message yet, and where the expression has no value: an
        index that an array lacks, or a division by zero.
        """
        if sent.output not in self.outputs:
            return
        self._newest[sent.output] = _value(sent)
        self._metadata = decode_metadata(sent.message.metadata)
        if len(self._newest) < len(self.outputs):
            return
        import numpy as np

        names = {"__builtins__": {}, **_FUNCTIONS, _OUTPUT: self._newest, _METADATA: self._metadata}
        try:
            with np.errstate(divide="raise", invalid="raise"):
                held = bool(eval(self._code, names))
        except (LookupError, ArithmeticError, TypeError, ValueError):
            return
        self.checked += 1
        if not held:
            shown = ", ".join(f"{name} = {_short(self._newest[name])}" for name in self.outputs)
            raise Violated(self.text, shown)

    def _check(self, part: ast.AST) -> None:
        """Raise `DoraError` for a part that the language does not have; collect the outputs."""
        match part:
            case ast.Attribute(value=ast.Name(id="output"), attr=name):
                self._add(name)
            case ast.Subscript(value=ast.Name(id="output"), slice=ast.Constant(value=str(name))):
                self._add(name)
            case ast.Attribute():
                raise self._refused(f"`{ast.unparse(part)}`: only `output` has names after a point")
            case ast.Call(func=ast.Name(id=name), keywords=[]) if name in _FUNCTIONS:
                pass
            case ast.Call():
                raise self._refused(
                    f"`{ast.unparse(part.func)}` is no function; they are {', '.join(sorted(_FUNCTIONS))}"
                )
            case ast.Name(id=name) if name not in (_OUTPUT, _METADATA, *_FUNCTIONS):
                raise self._refused(f"the name `{name}` is unknown; an output is written `output.{name}`")
            case _ if not isinstance(part, _NODES):
                raise self._refused(f"`{type(part).__name__}` is not allowed here")

    def _add(self, name: str) -> None:
        if name not in self.outputs:
            self.outputs.append(name)

    def _refused(self, why: str) -> DoraError:
        return DoraError(f"--expect `{self.text}`: {why}")


_EXAMPLE: Final = "'output.bbox[0] < 640'"


class _Lookup(ast.NodeTransformer):
    """Writes ``output.name`` as ``output['name']``."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        return ast.Subscript(node.value, ast.Constant(node.attr), ast.Load())


def _value(sent: SentMessage) -> Any:
    """Return numbers as a NumPy array in the shape that was sent, everything else as a list."""
    if sent.message.encoding == Encoding.PLAIN:
        return decode_numpy(sent.message)
    return decode_arrow(sent.message).to_pylist()


def _short(value: Any) -> str:
    text = str(value.tolist() if hasattr(value, "tolist") else value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
