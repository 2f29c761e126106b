"""Find definitions by name, and make types of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from dora.ros2.types.definition import InterfaceKind, MessageDefinition, full_name
from dora.ros2.types.errors import DefinitionError, TypeNotFound
from dora.ros2.types.message_type import (
    ActionType,
    MessageType,
    ServiceType,
    event_of,
    wrappers_of,
)
from dora.ros2.types.standard import (
    DEFAULT_DISTRIBUTION,
    INSTALL,
    INTERFACES,
    standard_message,
    standard_messages,
)

T = TypeVar("T", MessageType, ServiceType, ActionType)

__all__ = ["InterfaceLibrary"]

_WORDS: dict[InterfaceKind, str] = {"msg": "message type", "srv": "service type", "action": "action type"}


class InterfaceLibrary:
    """Finds the types of messages, services and actions of ROS 2 by name.

    It looks in ``paths`` first, then in the installed ROS that ``AMENT_PREFIX_PATH`` names, then among the
    standard packages, which need no ROS. A package may stand in a path as ``my_msgs/msg/Name.msg``,
    ``share/my_msgs/msg/Name.msg``, or deeper, as in the ``src`` of a workspace; a path may be the package
    itself.

    ``prefixes`` replaces ``AMENT_PREFIX_PATH``. ``distribution`` is the release of ROS whose standard
    packages count: the one of ``ROS_DISTRO``, or ``kilted``, which has the types of Jazzy too. Few types
    differ between releases.

    Each type is read once. A library may be used by several threads.

    Raises `DefinitionError` for a path that is no folder.

    >>> from dora.ros2 import InterfaceLibrary
    >>> InterfaceLibrary().service("std_srvs/SetBool").request.arrow
    StructType(struct<data: bool>)
    """

    def __init__(
        self,
        paths: Iterable[str | os.PathLike[str]] = (),
        *,
        prefixes: Sequence[str | os.PathLike[str]] | None = None,
        distribution: str | None = None,
    ) -> None:
        self._paths = [Path(path) for path in paths]
        for path in self._paths:
            if not path.is_dir():
                raise DefinitionError(f"{path} is no folder with message types")
        if prefixes is None:
            prefixes = [one for one in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if one]
        self._prefixes = [Path(prefix) for prefix in prefixes]
        self._distribution = distribution or os.environ.get("ROS_DISTRO") or DEFAULT_DISTRIBUTION
        self._definitions: dict[str, MessageDefinition] = {}
        self._types: dict[tuple[type, str], Any] = {}  # by class and full name

    def message(self, name: str) -> MessageType:
        """Return the message type ``std_msgs/msg/String``, for short ``std_msgs/String``.

        The parts of services and actions are messages, too: ``std_srvs/srv/SetBool_Event``.

        Raises `TypeNotFound`, also if a type in it is missing, and `DefinitionError`.
        """
        return self._type(MessageType, full_name(name, "msg"))

    def service(self, name: str) -> ServiceType:
        """Return the service type ``std_srvs/srv/SetBool``, for short ``std_srvs/SetBool``.

        Raises `TypeNotFound` and `DefinitionError`.
        """
        return self._type(ServiceType, full_name(name, "srv"))

    def action(self, name: str) -> ActionType:
        """Return the action type ``example_interfaces/action/Fibonacci``; ``action/`` may be left out.

        Raises `TypeNotFound` and `DefinitionError`.
        """
        return self._type(ActionType, full_name(name, "action"))

    def _type(self, kind: type[T], name: str) -> T:
        found: T | None = self._types.get((kind, name))
        if found is None:
            if kind is not MessageType:
                self._load(name)  # so that an error names it, and not one of its parts
            found = kind(name, self.definition)
            found.check()
            self._types[kind, name] = found
        return found

    def definition(self, name: str) -> MessageDefinition:
        """Return the definition of a message; raises `TypeNotFound` and `DefinitionError`."""
        found = self._definitions.get(name)
        if found is None:
            if name.split("/")[1] == "msg":
                self._load(name)
            else:
                self._load_part(name)
            found = self._definitions[name]
        return found

    def names(self, kind: InterfaceKind = "msg") -> list[str]:
        """Return the full names of all types of a kind that can be found, sorted."""
        found = set()
        for folder in self._share_folders():
            for file in (*folder.glob(f"*/{kind}/*.{kind}"), *folder.glob(f"*/{kind}/*.idl")):
                found.add(f"{file.parent.parent.name}/{kind}/{file.stem}")
        for path in self._paths:
            for file in (*path.rglob(f"{kind}/*.{kind}"), *path.rglob(f"{kind}/*.idl")):
                found.add(f"{file.parent.parent.name}/{kind}/{file.stem}")
        if kind == "msg":
            found.update(standard_messages(self._distribution) or ())
        return sorted(found)

    def _share_folders(self) -> Iterator[Path]:
        for prefix in self._prefixes:
            yield prefix / "share"
        yield INTERFACES

    def _load(self, name: str) -> None:
        """Read the definitions of a message, service or action."""
        for definition in self._read(name):
            self._definitions.setdefault(definition.name, definition)

    def _load_part(self, name: str) -> None:
        """Read the service or action of a part such as ``SetBool_Request``."""
        package, kind, last = name.split("/")
        while "_" in last:
            last = last.rpartition("_")[0]
            if self._find(package, kind, last) is not None:
                self._load(f"{package}/{kind}/{last}")
                if name in self._definitions:
                    return
        raise self._not_found(name)

    def _read(self, name: str) -> list[MessageDefinition]:
        package, kind, last = name.split("/")
        file = self._find(package, kind, last)
        if file is None:
            found = standard_message(name, self._distribution) if kind == "msg" else None
            if found is None:
                raise self._not_found(name)
            return [found]
        definitions = _read_file(file, name)
        if kind == "srv":
            definitions = [*definitions, event_of(name)]
        elif kind == "action":
            definitions = [*definitions, *wrappers_of(name)]
        return definitions

    def _find(self, package: str, kind: str, last: str) -> Path | None:
        suffixes = [f"{last}.{kind}", f"{last}.idl"]
        folders = []
        for path in self._paths:
            folders += [path / package / kind, path / "share" / package / kind]
            if path.resolve().name == package:
                folders.append(path / kind)
        for file in (folder / ending for folder in folders for ending in suffixes):
            if file.is_file():
                return file
        for path in self._paths:  # after all quick ones: it may be the root of a workspace
            for ending in suffixes:
                deeper = next(path.glob(f"**/{package}/{kind}/{ending}"), None)
                if deeper is not None:
                    return deeper
        for folder in self._share_folders():
            for ending in suffixes:
                file = folder / package / kind / ending
                if file.is_file():
                    return file
        return None

    def _not_found(self, name: str) -> TypeNotFound:
        kind: Any = name.split("/")[1]
        places = [str(path) for path in self._paths]
        if self._prefixes:
            places.append("AMENT_PREFIX_PATH (" + ", ".join(str(prefix) for prefix in self._prefixes) + ")")
        else:
            places.append("no installed ROS (AMENT_PREFIX_PATH is empty)")
        complete = standard_messages(self._distribution) is not None
        places.append(
            f"the standard packages of {self._distribution.capitalize()}"
            if complete
            else f"the standard packages, without most messages, which {INSTALL} brings"
        )
        near = _near(name, self.names(kind))
        hint = f"; near: {', '.join(near)}" if near else ""
        return TypeNotFound(f"there is no {_WORDS[kind]} {name!r}; looked in {', '.join(places)}{hint}")


def _near(name: str, known: list[str]) -> list[str]:
    """Return up to three names that may be meant: in the same package, or of the same name in others."""
    package, _, last = name.rpartition("/")
    lasts = [one.rpartition("/")[2] for one in known if one.startswith(package + "/")]
    near = [f"{package}/{one}" for one in get_close_matches(last, lasts, 3)]
    near = near or [one for one in known if one.endswith("/" + last)][:3]
    return near or get_close_matches(name, known, 3, 0.8)


def _read_file(file: Path, name: str) -> list[MessageDefinition]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DefinitionError(f"{file} cannot be read: {error}") from None
    if file.suffix != ".idl":
        from dora.ros2.types.msg_text import read_interface

        try:
            return read_interface(text, name)
        except DefinitionError as error:
            raise DefinitionError(f"{file}: {error}") from None
    from dora.ros2.types.idl_text import read_idl
    from dora.ros2.types.msg_text import SECTIONS

    found = read_idl(text, str(file))
    names = {one.name for one in found}
    missing = [name + ending for ending in SECTIONS[file.parent.name] if name + ending not in names]
    if missing:
        raise DefinitionError(f"{file} does not define {missing[0]}")
    return found
