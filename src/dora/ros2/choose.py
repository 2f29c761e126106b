"""The choice of an engine for a context, with its reason."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from typing import Final, get_args

from dora.dataflow.ros2 import TransportKind
from dora.errors import ConnectError
from dora.ros2.engine import RosContext
from dora.ros2.rclpy.find import PREFIX_VARIABLE, find_python
from dora.ros2.types.standard import INSTALL

_RMW_VARIABLE: Final = "RMW_IMPLEMENTATION"
_ZENOH_RMW: Final = "rmw_zenoh_cpp"


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """An engine, and a sentence that says why it is taken."""

    engine: TransportKind
    reason: str


def choose(transport: str | None = None, *, services: bool = False) -> EngineChoice:
    """Return the engine for a context, and why.

    ``transport`` is ``zenoh``, ``dds`` or ``rclpy``, or None for the RMW that the environment names
    (``$RMW_IMPLEMENTATION``), DDS by default as in ROS. Over DDS, ``services`` (also actions and
    parameters) need rclpy. Raises `ConnectError` if a package or the ROS for it is not here.
    """
    rmw = os.environ.get(_RMW_VARIABLE, "")
    if transport is None:
        over_zenoh = rmw == _ZENOH_RMW
        reason = f"${_RMW_VARIABLE} is {rmw}" if rmw else "DDS is the default of ROS"
    elif transport in get_args(TransportKind):
        over_zenoh = transport == "zenoh"
        reason = f"`{transport}` is asked for"
    else:
        raise ConnectError(f"`{transport}` is no transport of ROS 2: there are zenoh, dds and rclpy")
    if over_zenoh:
        if not _has("zenoh") or not _has("xxhash"):
            raise ConnectError(f"ROS 2 over Zenoh needs packages that are not here: {INSTALL}")
        return EngineChoice("zenoh", f"{reason}: Zenoh carries topics, services and actions")
    if transport == "rclpy":
        return EngineChoice("rclpy", reason)
    has_cyclone = _has("cyclonedds")
    if has_cyclone and not services:
        return EngineChoice("dds", f"{reason}: Cyclone DDS carries topics")
    if find_python() is not None:
        why = (
            "services over DDS need rclpy" if has_cyclone else "Cyclone DDS is not here (it is for x86-64)"
        )
        return EngineChoice("rclpy", f"{reason}: {why}, and a ROS is here")
    if has_cyclone:
        raise ConnectError(
            "services, actions and parameters over DDS need a ROS installation: source its setup file "
            f"(it sets ${PREFIX_VARIABLE}), or use Zenoh"
        )
    raise ConnectError(
        f"ROS 2 over DDS needs Cyclone DDS (x86-64: {INSTALL}) or a ROS installation: source its setup "
        "file, or use Zenoh"
    )


def open_context(
    choice: EngineChoice, domain_id: int = 0, *, profile: str = "rep2016", config_uri: str | None = None
) -> RosContext:
    """Open a context of the chosen engine; ``profile`` and ``config_uri`` are Zenoh's.

    Raises `ConnectError`, and `ValueError` for a domain or a profile that does not exist.
    """
    if choice.engine == "zenoh":
        from dora.ros2.zenoh.context import open_context as open_zenoh

        return open_zenoh(domain_id, profile=profile, config_uri=config_uri)
    if choice.engine == "dds":
        from dora.ros2.dds.context import open_context as open_dds

        return open_dds(domain_id)
    from dora.ros2.rclpy.context import open_context as open_rclpy

    return open_rclpy(domain_id)


def engines_here() -> list[str]:
    """Return the engines whose packages are here, and the Python of the one that is a ROS."""
    found: list[str] = []
    if _has("zenoh") and _has("xxhash"):
        found.append("zenoh")
    if _has("cyclonedds"):
        found.append("dds")
    if (python := find_python()) is not None:
        found.append(f"rclpy ({python})")
    return found


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
