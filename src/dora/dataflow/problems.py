"""Collects the problems of a dataflow's files, so that all of them are shown at once."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import NamedTuple

from dora.errors import Problem

MAX_SUGGESTIONS = 100  # of one check: more than the problems that are shown
MAX_COMPARISONS = 250_000  # of words with candidates, in one check: they take some tenths of a second
MAX_WORD = 200  # characters of what may be a slip of something: comparing is quadratic in them
MAX_CANDIDATES = 20_000  # of one word; even to choose the promising ones takes time
_FEW = 50  # candidates that are compared thoroughly
MAX_LISTED = 20  # names in a hint
_LONG_MESSAGE = 400  # characters; a file may quote a name of any length into a message
_LONG_WORD = re.compile("`([^`]{100,})`")


class Contradiction(NamedTuple):
    """Two things that do not fit together: the place, why, and the remedy, for `ProblemReport.error`."""

    span: TextSpan
    message: str
    hint: str


class Origin:
    """A file that problems point into.

    For a module, ``prefix`` is what the ids of its nodes begin with once they are part of the dataflow
    (problems use the names of the file), and ``note`` names the node that uses it.
    """

    __slots__ = ("_lines", "file", "note", "prefix", "text")

    def __init__(self, text: str, file: str, prefix: str = "", note: str = "") -> None:
        self.text = text
        self.file = file
        self.prefix = prefix
        self.note = note
        self._lines: list[str] | None = None

    def line(self, number: int) -> str:
        """Return a line (counted from 0) of the file, "" beyond its end."""
        if self._lines is None:
            self._lines = ["".join(map(_visible, line)) for line in self.text.splitlines()]
        return self._lines[number] if number < len(self._lines) else ""


class TextSpan:
    """A place in a file: lines and columns count from 0, the end is exclusive.

    ``origin`` is None in the file that the report is about.
    """

    __slots__ = ("column", "end_column", "end_line", "line", "origin")

    def __init__(self, line: int, column: int, end_line: int, end_column: int) -> None:
        self.line = line
        self.column = column
        self.end_line = end_line
        self.end_column = end_column
        self.origin: Origin | None = None


class _Effort:
    """The effort that may still be spent on suggestions."""

    def __init__(self) -> None:
        self.suggestions = MAX_SUGGESTIONS
        self.comparisons = MAX_COMPARISONS


class ProblemReport:
    """The problems found so far, and the file that they point into unless a span has another one."""

    def __init__(self, text: str, file: str, within: ProblemReport | None = None) -> None:
        """``within``: the report of the file that led to this one; both share what suggestions may cost."""
        self.origin = Origin(text, file)
        self.problems: list[Problem] = []
        self.failed = False
        self._effort: _Effort = _Effort() if within is None else within._effort

    @property
    def suggests(self) -> bool:
        """Whether suggestions are still computed: a file may hold thousands of slips."""
        return self._effort.suggestions > 0 and self._effort.comparisons > 0

    def closest(self, word: str, candidates: Iterable[str]) -> str:
        """Return the candidate that ``word`` is probably a slip of, or ""; always "" after many of them."""
        if not self.suggests:
            return ""
        names = list(candidates)
        self._effort.suggestions -= 1
        self._effort.comparisons -= len(names)
        return closest(word, names)

    def did_you_mean(self, word: str, candidates: Iterable[str]) -> str:
        """Return the hint for a word that is probably a slip of a candidate, or ""."""
        found = self.closest(word, candidates)
        return f"did you mean `{found}`?" if found else ""

    @property
    def file(self) -> str:
        """The file whose problems are reported."""
        return self.origin.file

    @property
    def folder(self) -> str:
        """How messages call the folder of the file; files beside one from the web are looked for here."""
        return "" if "://" in self.file else os.path.dirname(self.file)

    def source(self, line: int) -> str:
        """Return a line (counted from 0) of the file, "" beyond its end."""
        return self.origin.line(line)

    def place(self, span: TextSpan) -> str:
        """Return "file.yml:3:5" for a span."""
        return f"{(span.origin or self.origin).file}:{span.line + 1}:{span.column + 1}"

    def error(
        self, span: TextSpan, message: str, hint: str = "", part: str = "", *, last: bool = False
    ) -> None:
        """Record an error.

        ``part`` narrows the caret line to a piece of a one-line scalar: to the first place where it
        stands between slashes, or to the ``last``.
        """
        self.failed = True
        self.problems.append(self.problem(span, message, hint, part, last=last))

    def warn(self, span: TextSpan, message: str, hint: str = "", part: str = "") -> None:
        """Record a warning."""
        self.problems.append(self.problem(span, message, hint, part)._replace(severity="warning"))

    def take(self, other: ProblemReport) -> None:
        """Add what another report has found."""
        self.problems += other.problems
        self.failed = self.failed or other.failed

    def sorted(self) -> tuple[Problem, ...]:
        """Return all problems in the order of the file, then problems of other files, each once.

        A problem of a module is shown once, however often the module is used.
        """
        return tuple(sorted(each_once(self.problems), key=self._order))

    def _order(self, problem: Problem) -> tuple[bool, str, int, int]:
        return problem.file != self.file, problem.file, problem.line, problem.column

    def problem(
        self, span: TextSpan, message: str, hint: str = "", part: str = "", *, last: bool = False
    ) -> Problem:
        """Return a problem without recording it."""
        origin = span.origin or self.origin
        source = origin.line(span.line)
        column = min(span.column, len(source))
        one_line = span.end_line == span.line
        end = min(span.end_column, len(source)) if one_line else len(source.rstrip())
        if part and one_line:
            column, end = _narrowed(source, column, end, part, last)
        if origin.prefix:
            message, hint = (text.replace(f"`{origin.prefix}", "`") for text in (message, hint))
        message, hint = _shortened(message), _shortened(hint)
        return Problem(
            message=message,
            file=origin.file,
            line=span.line + 1,
            column=column + 1,
            hint=hint,
            source=source,
            width=max(end - column, 1),
            note=origin.note,
        )


def each_once(problems: Iterable[Problem]) -> list[Problem]:
    """Return problems without those that differ only in their note."""
    unique: dict[Problem, Problem] = {}
    for problem in problems:
        unique.setdefault(problem._replace(note=""), problem)
    return list(unique.values())


def _narrowed(source: str, start: int, end: int, part: str, last: bool) -> tuple[int, int]:
    """Return where ``part`` stands as a whole word between two columns, these if it does not."""
    found = start, end
    at = source.find(part, start, end)
    while at >= 0:
        stop = at + len(part)
        if not _in_word(source, at - 1) and not _in_word(source, stop):
            found = at, stop
            if not last:
                break
        at = source.find(part, at + 1, end)
    return found


def _in_word(source: str, column: int) -> bool:
    return 0 <= column < len(source) and (source[column].isalnum() or source[column] in "_.-")


def _shortened(text: str) -> str:
    """Return a sentence without the middle of very long quoted words."""
    if len(text) < _LONG_MESSAGE:
        return text
    return _LONG_WORD.sub(lambda found: f"`{found[1][:60]}…{found[1][-20:]}`", text)


def _visible(character: str) -> str:
    # A stray escape character in a file must not repaint the user's terminal.
    return character if character.isprintable() or character == "\t" else "\ufffd"


def closest(word: str, candidates: Iterable[str]) -> str:
    """Return the candidate that ``word`` is probably a slip of, or "".

    >>> closest("qeue_size", ["source", "queue_size"])
    'queue_size'
    """
    from difflib import get_close_matches  # only needed when something is wrong

    if len(word) > MAX_WORD:
        return ""
    # Words whose lengths differ more than this are never similar enough.
    shortest, longest = len(word) * 0.42, len(word) * 2.34
    names = [name for name in candidates if shortest <= len(name) <= longest][:MAX_CANDIDATES]
    if len(names) > _FEW:
        names = _promising(word, names)
    found = get_close_matches(word, names, n=1, cutoff=0.6)
    if not found:
        lowered = {name.lower(): name for name in names}
        found = [lowered[hit] for hit in get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)]
    return found[0] if found else ""


def _promising(word: str, names: list[str]) -> list[str]:
    """Return the names that have most pairs of neighbouring letters in common with a word."""
    from heapq import nlargest

    lowered = word.lower()
    pairs = {lowered[at : at + 2] for at in range(len(lowered) - 1)}

    def common(name: str) -> int:
        name = name.lower()
        return sum([pair in name for pair in pairs])

    return nlargest(_FEW, names, common)


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """Return the hint for a word that is probably a slip of a candidate, or ""."""
    found = closest(word, candidates)
    return f"did you mean `{found}`?" if found else ""


def no_node(node_id: str, known: Iterable[str]) -> str:
    """Return the message for a node that a dataflow does not have, with the one that was meant or all."""
    ids = list(known)
    hint = did_you_mean(node_id, ids) or (f"its nodes are {listed(ids, MAX_LISTED)}" if ids else "")
    return f"this dataflow has no node `{node_id}`" + (f"; {hint}" if hint else "")


def being_replaced(node_id: str) -> str:
    """Return the message for a dataflow that cannot be changed before a replacement is done."""
    return (
        f"node `{node_id}` is being replaced; try again once that is done, or give the replacement up: "
        f"`dora node restart {node_id}`"
    )


def listed(names: Iterable[str], at_most: int | None = None) -> str:
    """Return names for a sentence: ```a`, `b` and `c```.

    >>> listed(["a", "b", "c", "d"], 2)
    '`a`, `b` and 2 more'
    """
    quoted = [f"`{name}`" for name in names]
    if at_most is not None and len(quoted) > at_most + 1:
        return f"{', '.join(quoted[:at_most])} and {len(quoted) - at_most} more"
    if len(quoted) < 2:
        return "".join(quoted)
    return f"{', '.join(quoted[:-1])} and {quoted[-1]}"
