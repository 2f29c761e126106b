"""What is sent to outputs that the dataflow does not declare: refused, or counted and dropped.

Published nodes send to more outputs than a dataflow may use, so by default such a message is dropped;
the log says so once for each output. With ``DORA_STRICT_OUTPUTS=1`` it is an error.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable

from dora.errors import UndeclaredOutput
from dora.node.log import log_line, write_line
from dora.transport.board import UNDECLARED, WORDS, Board


class UndeclaredOutputs:
    """Safe to use from several threads. ``sent`` counts what was dropped, per output."""

    def __init__(self, node_id: str, declared: Iterable[str], board: Board, node_slot: int) -> None:
        self.sent: dict[str, int] = {}
        self._node_id = node_id
        self._declared = sorted(declared)
        self._words = board.words
        self._word = node_slot * WORDS + UNDECLARED
        self._strict = os.environ.get("DORA_STRICT_OUTPUTS", "").lower() in ("1", "true", "yes", "on")
        self._lock = threading.Lock()

    @property
    def total(self) -> int:
        """Messages that this node, in all its processes, has sent to undeclared outputs."""
        return self._words[self._word]

    def drop(self, output_id: str) -> bool:
        """Count a message, and warn of the first on its output; tell whether it is the first of all.

        Raises `UndeclaredOutput` in strict mode.
        """
        if self._strict:
            raise self.error(output_id)
        with self._lock:
            self._words[self._word] += 1
            first = not self.sent
            before = self.sent.get(output_id, 0)
            self.sent[output_id] = before + 1
        if not before:
            write_line(
                log_line(self._node_id, "warn", f"{self.error(output_id)}; its messages are dropped")
            )
        return first

    def error(self, output_id: str) -> UndeclaredOutput:
        """Return the error that names the declared outputs, and the one that was probably meant."""
        import difflib

        close = difflib.get_close_matches(str(output_id), self._declared, 1)
        return UndeclaredOutput(
            f"output `{output_id}` is not declared for node `{self._node_id}`"
            + (f", did you mean `{close[0]}`?" if close else "")
            + f" (declared: {', '.join(self._declared) or 'none'})"
        )
