"""Environment variables inside values of the document: ``$NAME``, ``${NAME}``, ``${NAME:-default}``."""

from __future__ import annotations

import re
from collections.abc import Mapping

_reference = re.compile(r"\$(?:\$|([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\})")
_without_braces = re.compile(r"\$(?:\$|([A-Za-z_][A-Za-z0-9_]*)|(?!)()())")  # the same groups

# `path` must mean the same wherever the dataflow runs, hence only what every machine has.
PATH_VARIABLES = ("HOME", "USER", "PWD", "DORA_WORKSPACE", "CARGO_MANIFEST_DIR")


def expand(text: str, environ: Mapping[str, str]) -> tuple[str, list[str]]:
    """Return the text with all references replaced, and the names that are not set.

    ``$$`` is a dollar sign; a ``$`` that begins no reference stays as it is, and so does a
    reference to a name that is not set.

    >>> expand("${HOME}/$DIR/${MODE:-fast} costs 5$", {"HOME": "/root"})
    ('/root/$DIR/fast costs 5$', ['DIR'])
    """
    if "$" not in text:
        return text, []
    unset: list[str] = []

    def replace(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name is None:
            return "$"
        value = environ.get(name, match[3])
        if value is None:
            unset.append(name)
            return match[0]
        return value

    # Behind the last `}` nothing is closed any more: looking for it from every `${` would take for ever.
    end = text.rfind("}") + 1
    return _reference.sub(replace, text[:end]) + _without_braces.sub(replace, text[end:]), unset


def expand_path(path: str, environ: Mapping[str, str]) -> tuple[str, list[str]]:
    """Expand the few variables that ``path`` may use; return also the names that were left alone."""
    return expand(path, {name: environ[name] for name in PATH_VARIABLES if name in environ})
