"""Calls of Cyclone DDS that its Python classes do not offer: bytes in and out, and a wait.

The classes of ``cyclonedds`` write and read objects of generated types. This engine has bytes, with the
header of CDR. `raw_topic` makes a topic of which the network learns only the name of the type. The
functions write a message without holding the interpreter, and wait for one.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any, Final

from cyclonedds._clayer import ddspy_take
from cyclonedds.core import DDSException
from cyclonedds.idl import IdlStruct
from cyclonedds.idl.types import uint8
from cyclonedds.internal import DDS
from cyclonedds.topic import Topic

from dora.errors import TransportError
from dora.ros2.qos import INFINITE_NS

ANY_STATE: Final = 0x7F  # of samples, views and instances
_TAKE_AT_ONCE: Final = 32  # messages; the other readers wait meanwhile
_FATAL, _ERROR = 1, 2  # categories of Cyclone's log (ddsrt/log.h)
_SHORTEST: Final = 8  # bytes of a message; Cyclone sends whole words, and not the header alone

# `struct ddsi_sertype_ops` of Cyclone's ddsi_sertype.h, version 0; three of its functions tell the fields.
_OPERATIONS: Final = 14
_FIELD_OPERATIONS: Final = (8, 9, 10)  # type_id, type_map, type_info

# The Python interface reads each policy into variables of a class, which all threads share. Without the
# lock, a context now and then finds no hash of a type, because another one reads policies at the time.
reading_policies: Final = threading.Lock()

# Types point to these tables, so none of them is ever freed or replaced.
_tables: Final[dict[int, Any]] = {}  # address of a table of functions → its copy

_library: Final = DDS._dll_handle


class _RawSample(ctypes.Structure):
    """A message as a writer of the Python interface takes it: bytes and their number."""

    _fields_ = [("data", ctypes.c_char_p), ("size", ctypes.c_size_t)]


# Not as the Python interface does it: that holds the interpreter meanwhile, so a slow subscription would
# stop every thread, also the one that has to receive its acknowledgement.
_write: Final = _library.dds_write
_write.argtypes = [ctypes.c_int32, ctypes.c_void_p]
_write.restype = ctypes.c_int32
_get_type: Final = _library.dds_get_entity_sertype
_get_type.argtypes = [ctypes.c_int32, ctypes.POINTER(ctypes.c_void_p)]
_get_type.restype = ctypes.c_int32
_attach: Final = _library.dds_waitset_attach
_attach.argtypes = [ctypes.c_int32, ctypes.c_int32, ctypes.c_void_p]
_attach.restype = ctypes.c_int32
_detach: Final = _library.dds_waitset_detach
_detach.argtypes = [ctypes.c_int32, ctypes.c_int32]
_detach.restype = ctypes.c_int32
_wait: Final = _library.dds_waitset_wait
_wait.argtypes = [ctypes.c_int32, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64]
_wait.restype = ctypes.c_int32
_delete: Final = _library.dds_delete
_delete.argtypes = [ctypes.c_int32]
_delete.restype = ctypes.c_int32


def print_errors_only() -> None:
    """Have Cyclone print errors, but no warnings, on the standard error output of this process.

    It warns of each answer about types that one Fast DDS gives another: it hears that, and cannot read it.
    """
    _library.dds_set_log_mask(_FATAL | _ERROR)


def raw_topic(participant: Any, name: str, dds_type: str) -> Any:
    """Create a topic whose bytes nobody looks into; raises ``DDSException``.

    The network learns the name of its type and nothing more, as with the other DDS of ROS. Cyclone tells
    what fields a type has, the others compare that with theirs, and ours has none that are true. Without it
    they compare names.
    """

    class Raw(IdlStruct, typename=dds_type):
        byte: uint8  # Cyclone wants a field

    topic = Topic(participant, name, Raw)
    _hide_fields(topic)
    return topic


def _hide_fields(topic: Any) -> None:
    """Take from the type of a topic the functions with which Cyclone asks for its fields.

    The interface for types of other languages has a version in its first word, and lets these three
    functions be absent. The Python package always sets them.
    """
    found = ctypes.c_void_p()
    _check(_get_type(topic._ref, ctypes.byref(found)))
    operations = ctypes.c_void_p.from_address(found.value or 0)  # the first word of a type
    operations.value = ctypes.addressof(_without_fields(operations.value or 0))


def _without_fields(address: int) -> Any:
    """Return a copy of a table of functions without those that tell the fields."""
    table = (ctypes.c_void_p * _OPERATIONS).from_address(address)
    if table[0] != ctypes.cast(_library.ddsi_sertype_v0, ctypes.c_void_p).value:
        raise TransportError("this version of `cyclonedds` is not known: install cyclonedds 11.0")
    copy = (ctypes.c_void_p * _OPERATIONS)(*table)
    for index in _FIELD_OPERATIONS:
        copy[index] = None
    return _tables.setdefault(address, copy)  # another thread may have been faster


def write(writer: Any, data: bytes) -> None:
    """Write a message; raises ``DDSException``. Waits up to the writer's ``max_blocking_time``."""
    if len(data) % 4 or len(data) < _SHORTEST:
        data = data.ljust(max(len(data) + 3 & ~3, _SHORTEST), b"\0")
    sample = _RawSample(data, len(data))
    code = _write(writer._ref, ctypes.addressof(sample))
    if code < 0:
        raise DDSException(code)


def take(reader: Any) -> list[tuple[bytes, Any]]:
    """Return messages that have arrived, at most `_TAKE_AT_ONCE`, with what Cyclone says of each."""
    found = ddspy_take(reader._ref, ANY_STATE, _TAKE_AT_ONCE)
    if isinstance(found, int):
        raise DDSException(found)
    return found  # type: ignore[no-any-return]


def delete(entity: Any) -> None:
    """Delete an entity and what belongs to it, also if an object of Python still refers to it.

    The Python interface deletes it with the last reference, and an error that somebody keeps has one.
    """
    _delete(entity._ref)  # what is deleted already has another answer, and nothing else to do


class Waiting:
    """A wait for several entities, each of which has a number above 0."""

    def __init__(self, waitset: Any, most: int) -> None:
        """``most``: how many entities one `wait` tells of."""
        self._waitset = waitset
        self._numbers: Any = (ctypes.c_void_p * most)()
        self._address, self._most = ctypes.addressof(self._numbers), most

    def add(self, entity: Any, number: int) -> None:
        _check(_attach(self._waitset._ref, entity._ref, number))

    def remove(self, entity: Any) -> None:
        _check(_detach(self._waitset._ref, entity._ref))

    def wait(self) -> list[int]:
        """Sleep until entities have something to do; return their numbers. For one thread."""
        count = _wait(self._waitset._ref, self._address, self._most, INFINITE_NS)
        if count < 0:
            raise DDSException(count)
        found: list[int] = self._numbers[: min(count, self._most)]
        return found


def _check(code: int) -> int:
    if code < 0:
        raise DDSException(code)
    return code
