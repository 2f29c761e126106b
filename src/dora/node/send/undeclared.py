"""Messages to outputs that the dataflow does not declare: refused, or counted and dropped.

Published nodes send to more outputs than a dataflow may use, so by default such a message is dropped,
with one warning for each output. With ``DORA_STRICT=1`` it is an error.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from dora._strict import STRICT_VARIABLE, is_on
from dora.errors import UndeclaredOutput, UnsupportedData
from dora.node.log import write_log
from dora.transport.board import WORDS, Board
from dora.wire.counters import UNDECLARED


class UndeclaredOutputs:
    """Safe to use from several threads. ``sent`` counts what was dropped, per output."""

    def __init__(
        self,
        node_id: str,
        declared: Iterable[str],
        board: Board,
        node_slot: int,
        operators: Iterable[str] = (),
    ) -> None:
        """``declared``: ids of the outputs; each output of one of ``operators`` begins with its id."""
        self.sent: dict[str, int] = {}
        self._node_id = node_id
        self._declared = sorted(declared)
        self._operators = list(operators)
        self._words = board.words
        self._word = node_slot * WORDS + UNDECLARED.word
        self._strict = is_on(STRICT_VARIABLE)
        self._lock = threading.Lock()  # any thread may send; to read and add one is not one step

    def drop(self, output_id: str) -> bool:
        """Count a message, and warn of the first on its output; return whether it is the first of all.

        Raises `UndeclaredOutput` in strict mode, and always for what no dataflow can declare.
        """
        if output_id not in self.sent:
            self._refuse_impossible(output_id)
        if self._strict:
            raise self.error(output_id)
        with self._lock:
            self._words[self._word] += 1
            first = not self.sent
            before = self.sent.get(output_id, 0)
            self.sent[output_id] = before + 1
        if not before:
            write_log(self._node_id, "warn", f"{self.error(output_id)}; its messages are dropped")
        return first

    def error(self, output_id: str) -> UndeclaredOutput:
        """Return the error that names the declared outputs, and the one that was probably meant."""
        from dora.dataflow.problems import did_you_mean  # only after a mistake

        owner, prefix = self._owner(str(output_id))
        short = str(output_id).removeprefix(prefix)
        declared = [other.removeprefix(prefix) for other in self._declared if other.startswith(prefix)]
        hint = did_you_mean(short, declared)
        return UndeclaredOutput(
            f"output `{short}` is not declared for {owner}"
            + (f", {hint}" if hint else "")
            + f" (declared: {', '.join(declared) or 'none'})"
        )

    def _owner(self, output_id: str) -> tuple[str, str]:
        """Return who sends to an output, as a text, and what the ids of its outputs begin with."""
        for operator in self._operators:
            if output_id.startswith(f"{operator}/"):
                return f"operator `{operator}` of node `{self._node_id}`", f"{operator}/"
        return f"node `{self._node_id}`", ""

    def _refuse_impossible(self, output_id: str) -> None:
        from dora.dataflow.names import data_id_fault  # its patterns are for the rare mistake

        if not isinstance(output_id, str):
            raise UnsupportedData(f"the id of an output is a string, not {type(output_id).__name__}")
        short = output_id.removeprefix(self._owner(output_id)[1])
        if fault := data_id_fault(short):
            raise UndeclaredOutput(f"{short!r} is not the id of an output: it {fault}")
