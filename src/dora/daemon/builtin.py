"""Nodes that come with dora and take the place of a published package, and those that nothing replaces.

``path: dora-rerun`` starts a module of dora, and a ``build`` line ``pip install dora-rerun`` means what
that module needs. A file of that name in the dataflow's directory goes before.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BuiltinNode:
    """One such node: ``module`` is run with ``python -m``; pip finds what it needs by ``requirement``,
    which is also what the optional extra ``extra`` of dora asks for; "": dora itself has all it needs."""

    module: str
    requirement: str = ""
    extra: str = ""


BUILTIN_NODES = {
    "dora-rerun": BuiltinNode(module="dora.viewer", requirement="rerun-sdk>=0.32,<1", extra="rerun"),
    "dora-replay": BuiltinNode(module="dora.recording.player"),
}
"""By the name in ``path``, which is also that of the package that is not installed, in pip's spelling."""

RUST_PACKAGES = {
    "dora-rav1e": "encode images in a Python node, for example with opencv-python or PyAV",
    "dora-dav1d": "decode images in a Python node, for example with opencv-python or PyAV",
    "dora-object-to-pose": "compute the poses in a Python node",
    "dora-kit-car": "drive the car from a Python node",
}
"""Published programs that no current dora can talk to, and what to do instead."""


def why_refused(package: str) -> str:
    """Return the sentence about one of the `RUST_PACKAGES`."""
    return (
        f"`{package}` is a program in Rust that speaks an old wire protocol, so it cannot join a dataflow; "
        f"{RUST_PACKAGES[package]}"
    )
