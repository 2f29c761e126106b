"""Nodes that come with dora and take the place of a published package.

``path: dora-rerun`` starts a module of dora, and a ``build`` line ``pip install dora-rerun`` means what
that module needs. A file of that name in the dataflow's directory goes before.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BuiltinNode:
    """One such node: ``module`` is run with ``python -m``; pip finds what it needs by ``requirement``,
    which is also what the optional extra ``extra`` of dora asks for."""

    module: str
    requirement: str
    extra: str


BUILTIN_NODES = {
    "dora-rerun": BuiltinNode(module="dora.viewer", requirement="rerun-sdk>=0.32,<1", extra="rerun"),
}
"""By the name in ``path``, which is also that of the package that is not installed, in pip's spelling."""
