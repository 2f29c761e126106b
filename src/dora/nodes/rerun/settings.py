"""The settings of a viewer node, from its environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import urlsplit

from dora.dataflow.problems import did_you_mean, listed
from dora.errors import DoraError

Mode = Literal["SPAWN", "CONNECT", "SERVE", "SAVE"]
MODES: tuple[Mode, ...] = get_args(Mode)

DEFAULT_ADDRESS = "127.0.0.1:9876"
DEFAULT_MEMORY_LIMIT = "25%"
DEFAULT_WEB_PORT = 9090


class SettingError(DoraError):
    """A variable of the environment cannot be used; ``str(error)`` names it and the mend."""


@dataclass(frozen=True)
class RobotSetting:
    """A robot to draw. ``urdf`` is a file, or a name that the package robot_descriptions knows;
    ``quaternion`` is x, y, z, w."""

    name: str
    urdf: str
    translation: tuple[float, ...] = (0.0, 0.0, 0.0)
    quaternion: tuple[float, ...] = (0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class ViewerSettings:
    """``image_size`` is width and height of images whose metadata has none."""

    mode: Mode = "SPAWN"
    address: str = DEFAULT_ADDRESS
    web_port: int = DEFAULT_WEB_PORT
    file: str | None = None
    memory_limit: str = DEFAULT_MEMORY_LIMIT
    readme: str | None = None
    image_size: tuple[int, int] | None = None
    robots: tuple[RobotSetting, ...] = ()
    warnings: tuple[str, ...] = ()


def read_settings(environ: Mapping[str, str]) -> ViewerSettings:
    """Return the settings of an environment; raises `SettingError`.

    An unknown mode is a warning, as existing dataflows expect: what is shown is not worth a failure.
    """
    mode, warnings = _mode(environ)
    return ViewerSettings(
        mode=mode,
        address=environ.get("RERUN_SERVER_ADDR") or DEFAULT_ADDRESS,
        web_port=_number(environ, "RERUN_WEB_PORT") or DEFAULT_WEB_PORT,
        file=environ.get("RERUN_SAVE") or None,
        memory_limit=environ.get("RERUN_MEMORY_LIMIT") or DEFAULT_MEMORY_LIMIT,
        readme=environ.get("README") or None,
        image_size=_image_size(environ),
        robots=tuple(
            _robot(name, urdf, environ)
            for variable, urdf in sorted(environ.items())
            if (name := _robot_name(variable))
        ),
        warnings=warnings,
    )


def grpc_url(address: str) -> str:
    """Return the URL of a viewer's server.

    >>> grpc_url("127.0.0.1:9876")
    'rerun+http://127.0.0.1:9876/proxy'
    """
    if "://" not in address:
        address = f"rerun+http://{address}"
    scheme, _, rest = address.partition("://")
    if not scheme.startswith("rerun"):
        scheme = f"rerun+{scheme}"
    return f"{scheme}://{rest}" if "/" in rest else f"{scheme}://{rest}/proxy"


def host_and_port(address: str) -> tuple[str, int]:
    """Return where a viewer's server listens; raises `SettingError`.

    >>> host_and_port("rerun+http://robot:9876/proxy")
    ('robot', 9876)
    """
    try:
        parts = urlsplit(grpc_url(address))
        if parts.hostname and parts.port:
            return parts.hostname, parts.port
    except ValueError:
        pass
    raise SettingError(f"RERUN_SERVER_ADDR is `{address}`; write a host and a port, like {DEFAULT_ADDRESS}")


def _mode(environ: Mapping[str, str]) -> tuple[Mode, tuple[str, ...]]:
    text = environ.get("OPERATING_MODE")
    if not text:
        return ("SAVE" if environ.get("RERUN_SAVE") else "SPAWN"), ()
    for mode in MODES:
        if text.upper() == mode:
            return mode, ()
    hint = did_you_mean(text.upper(), MODES) or f"it can be {listed(MODES)}"
    return "SPAWN", (f"OPERATING_MODE is `{text}`, which counts as `SPAWN`; {hint}",)


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "").strip()
    if not text:
        return None
    if not text.isdecimal() or int(text) == 0:
        raise SettingError(f"{name} is `{text}`; it has to be a whole number greater than zero")
    return int(text)


def _image_size(environ: Mapping[str, str]) -> tuple[int, int] | None:
    width, height = _number(environ, "IMAGE_WIDTH"), _number(environ, "IMAGE_HEIGHT")
    return (width, height) if width and height else None


def _robot_name(variable: str) -> str:
    return variable[: -len("_urdf")] if variable.endswith(("_urdf", "_URDF")) else ""


def _robot(name: str, urdf: str, environ: Mapping[str, str]) -> RobotSetting:
    variable = next((name + end for end in ("_transform", "_TRANSFORM") if name + end in environ), None)
    if variable is None:
        return RobotSetting(name, urdf)
    try:
        numbers = [float(word) for word in environ[variable].replace(",", " ").split()]
    except ValueError:
        numbers = []
    if len(numbers) == 3:
        return RobotSetting(name, urdf, tuple(numbers))
    if len(numbers) == 7:
        # The order of existing dataflows: w comes first.
        x, y, z, w, *imaginary = numbers
        return RobotSetting(name, urdf, (x, y, z), (*imaginary, w))
    raise SettingError(
        f"{variable} is `{environ[variable]}`; it has to be `x y z` or `x y z qw qx qy qz`, seven numbers"
    )
