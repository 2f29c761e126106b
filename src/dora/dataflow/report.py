"""Collects the problems of one document, so that all of them are shown at once."""

from __future__ import annotations

import re
from collections.abc import Iterable

from dora.errors import Problem


class Span:
    """A place in the document: lines and columns count from 0, the end is exclusive."""

    __slots__ = ("column", "end_column", "end_line", "line")

    def __init__(self, line: int, column: int, end_line: int, end_column: int) -> None:
        self.line = line
        self.column = column
        self.end_line = end_line
        self.end_column = end_column


class Report:
    """The problems found so far, and the text that they point into."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.failed = False
        self._text = text
        self._lines: list[str] | None = None

    def source(self, line: int) -> str:
        """Return a line (counted from 0) of the document, "" beyond its end."""
        if self._lines is None:
            self._lines = ["".join(map(_visible, line)) for line in self._text.splitlines()]
        return self._lines[line] if line < len(self._lines) else ""

    def error(
        self, span: Span, message: str, hint: str = "", part: str = "", *, last: bool = False
    ) -> None:
        """Record an error.

        ``part`` narrows the caret line to a piece of a one-line scalar: to the first place where it
        stands between slashes, or to the ``last``.
        """
        self.failed = True
        self.problems.append(self._problem(span, message, hint, part, last))

    def warn(self, span: Span, message: str, hint: str = "", part: str = "") -> None:
        """Record a warning."""
        problem = self._problem(span, message, hint, part, False)
        self.problems.append(problem._replace(severity="warning"))

    def sorted(self) -> tuple[Problem, ...]:
        """Return all problems in the order of the document, each once."""
        unique = dict.fromkeys(self.problems)
        return tuple(sorted(unique, key=lambda problem: (problem.line, problem.column)))

    def _problem(self, span: Span, message: str, hint: str, part: str, last: bool) -> Problem:
        source = self.source(span.line)
        column = min(span.column, len(source))
        one_line = span.end_line == span.line
        end = min(span.end_column, len(source)) if one_line else len(source.rstrip())
        if part and one_line:
            column, end = _narrowed(source, column, end, part, last)
        return Problem(
            message=message,
            file=self.file,
            line=span.line + 1,
            column=column + 1,
            hint=hint,
            source=source,
            width=max(end - column, 1),
        )


def _narrowed(source: str, start: int, end: int, part: str, last: bool) -> tuple[int, int]:
    whole_words = re.compile(rf"(?<![\w.-]){re.escape(part)}(?![\w.-])")
    found = [match.span() for match in whole_words.finditer(source, start, end)]
    return found[-1 if last else 0] if found else (start, end)


def _visible(character: str) -> str:
    # A stray escape character in a file must not repaint the user's terminal.
    return character if character.isprintable() or character == "\t" else "\ufffd"


def closest(word: str, candidates: Iterable[str]) -> str:
    """Return the candidate that ``word`` is probably a slip of, or "".

    >>> closest("qeue_size", ["source", "queue_size"])
    'queue_size'
    """
    from difflib import get_close_matches  # only needed when something is wrong

    names = list(candidates)
    found = get_close_matches(word, names, n=1, cutoff=0.6)
    if not found:
        lowered = {name.lower(): name for name in names}
        found = [lowered[hit] for hit in get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)]
    return found[0] if found else ""


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """Return the hint for a word that is probably a slip of a candidate, or ""."""
    found = closest(word, candidates)
    return f"did you mean `{found}`?" if found else ""


def listed(names: Iterable[str]) -> str:
    """Return names for a sentence: ```a`, `b` and `c```."""
    quoted = [f"`{name}`" for name in names]
    if len(quoted) < 2:
        return "".join(quoted)
    return f"{', '.join(quoted[:-1])} and {quoted[-1]}"
