"""Programs that the ``path`` of a node can name: files, commands, and nodes that come with dora."""

from __future__ import annotations

import os
import sys

import msgspec

from dora.dataflow.model import Dataflow, NodeSpec
from dora.dataflow.ros2 import BRIDGE_PATH


class BuiltinNode(msgspec.Struct, frozen=True):
    """A node that comes with dora and takes the place of a published package.

    ``path: dora-rerun`` starts a module of dora, and a build command ``pip install dora-rerun`` installs
    what that module needs. A file of that name in the dataflow's directory takes precedence.

    ``module`` is run with ``python -m``. ``requirement`` is what pip installs for it, and what the optional
    extra ``extra`` of dora requires; "": dora itself has all it needs.
    """

    module: str
    requirement: str = ""
    extra: str = ""


_AV = "av>=15,<19"

BUILTIN_NODES = {
    "dora-rerun": BuiltinNode(module="dora.nodes.rerun", requirement="rerun-sdk>=0.32,<1", extra="rerun"),
    "dora-foxglove": BuiltinNode(
        module="dora.nodes.foxglove", requirement="foxglove-sdk>=0.30,<1", extra="foxglove"
    ),
    "dora-camera": BuiltinNode("dora.nodes.camera", _AV, "camera"),
    "dora-lerobot-recorder": BuiltinNode("dora.nodes.lerobot_recorder", _AV, "lerobot"),
    "dora-lerobot-replay": BuiltinNode("dora.nodes.lerobot_replay", _AV, "lerobot"),
    BRIDGE_PATH: BuiltinNode(module="dora.ros2.bridge"),
    "dora-policy": BuiltinNode(module="dora.nodes.policy"),
    "dora-action-executor": BuiltinNode(module="dora.nodes.action_executor"),
    "dora-selector": BuiltinNode(module="dora.nodes.selector"),
    "dora-replay": BuiltinNode(module="dora.recording.replay.player"),
}
"""Name in ``path`` → node. The replaced package has the same name, in pip's spelling."""

RUST_PACKAGES = {
    "dora-rav1e": "encode images in a Python node, for example with opencv-python or PyAV",
    "dora-dav1d": "decode images in a Python node, for example with opencv-python or PyAV",
    "dora-object-to-pose": "compute the poses in a Python node",
    "dora-kit-car": "drive the car from a Python node",
    "dora-openai-websocket": "use dora-openai-server, or serve the web socket from a Python node",
    "dora-rustypot": "drive the motors from a Python node, for example with rustypot",
}
"""Published programs that cannot join a dataflow, and what to do instead."""


def why_refused(package: str) -> str:
    """Return the error message about one of the `RUST_PACKAGES`."""
    return (
        f"`{package}` is a program in Rust that speaks an old wire protocol, so it cannot join a dataflow; "
        f"{RUST_PACKAGES[package]}"
    )


def program_path(dataflow: Dataflow, node: NodeSpec, path: str) -> str:
    """Return the file that a ``path`` of a node or operator means if it is no command."""
    return os.path.join(dataflow.directory_of(node), os.path.expanduser(path))


def find_program(name: str, search_path: str | None = None, first: str | None = None) -> str | None:
    """Return the path of a command, None if there is none.

    The folder ``first``, then ``search_path`` (default: ``PATH``), then the folder of the interpreter are
    searched.
    """
    if os.sep in name:
        return None
    path = search_path if search_path is not None else os.environ.get("PATH", os.defpath)
    folders = (*path.split(os.pathsep), os.path.dirname(sys.executable))
    for directory in folders if first is None else (first, *folders):
        candidate = os.path.join(directory or os.curdir, name)
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    return None
