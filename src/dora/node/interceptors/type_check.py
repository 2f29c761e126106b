"""The check at run time that messages are of the types which the dataflow declares.

The first message of a typed input is checked, and a wrong one causes one warning. Messages that a node
sends are checked if ``DORA_RUNTIME_TYPE_CHECK`` is set: ``warn`` warns, ``error`` raises. A node without
types pays nothing; the check of inputs removes itself after the first message of each.

Messages of services and actions are not checked: one output may carry them in several types.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from dora.errors import UnsupportedData
from dora.node.events import Event, Input, Synced, Text
from dora.node.interceptor import Lent, Metadata, ReceiveInterceptor, SendInterceptor
from dora.node.log import write_log
from dora.wire.arrow_formats import ARROW_NAMES
from dora.wire.correlation import carries_correlation, is_correlated
from dora.wire.decode import PayloadError, decode_arrow
from dora.wire.encode import EncodedArray
from dora.wire.message import Message
from dora.wire.node_config import InputConfig, NodeConfig, OutputConfig

if TYPE_CHECKING:
    from dora.node.operator import OperatorOutput
    from dora.node.receive.inbox import Inbox
    from dora.node.send.output import OutputPort

_MODES: Final = {"1": "warn", "warn": "warn", "true": "warn", "on": "warn", "error": "error"}
_OFF: Final = ("", "0", "off", "no", "false")

# Names in pyarrow of the Arrow types of the type library, wider types last.
_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "Null": ("null",),
    "Boolean": ("bool",),
    "Utf8": ("string", "large_string", "string_view"),
    "Float16": ("halffloat",),
    "Float32": ("float",),
    "Float64": ("float", "double"),
    "Int8": ("int8",),
    "Int16": ("int8", "int16"),
    "Int32": ("int8", "int16", "int32"),
    "Int64": ("int8", "int16", "int32", "int64"),
    "UInt8": ("uint8",),
    "UInt16": ("uint8", "uint16"),
    "UInt32": ("uint8", "uint16", "uint32"),
    "UInt64": ("uint8", "uint16", "uint32", "uint64"),
}


def misfit(type_: Any, shape: Any, field: str = "") -> str:
    """Return why values of a ``pyarrow.DataType`` do not fit a shape of the type library; "" if they do.

    ``field`` is their path inside a struct. An empty array without a type fits everything. A struct with
    bytes in it, such as an image, may also be sent as the bytes alone, with the rest in the metadata, as
    published nodes do.
    """
    import pyarrow as pa

    if isinstance(type_, pa.BaseExtensionType):
        return misfit(type_.storage_type, shape, field)
    if pa.types.is_dictionary(type_):
        return misfit(type_.value_type, shape, field)
    if pa.types.is_null(type_) or shape == "LargeBinary":
        return ""
    what = f"`{field}` is {type_}" if field else f"it is {type_}"
    if isinstance(shape, str):
        return "" if str(type_) in _NAMES.get(shape, ()) else f"{what}, not {shape}"
    if "list" in shape:
        is_list = hasattr(type_, "value_type") and not pa.types.is_map(type_)
        return misfit(type_.value_type, shape["list"], f"{field}[]") if is_list else f"{what}, not a list"
    fields: dict[str, Any] = shape["struct"]
    if not pa.types.is_struct(type_):
        alone = "LargeBinary" in fields.values() and _is_bytes(type_)
        return "" if alone else f"{what}, not a struct"
    sent = {type_.field(index).name: type_.field(index).type for index in range(type_.num_fields)}
    for name, inner in fields.items():
        path = f"{field}.{name}" if field else name
        if name not in sent:
            return f"there is no field `{path}`"
        if found := misfit(sent[name], inner, path):
            return found
    return ""


def _why_none_fits(type_: Any, shapes: list[Any]) -> str:
    """Return why values fit none of the shapes; "" if they fit one."""
    reasons = [misfit(type_, shape) for shape in shapes]
    return "" if "" in reasons else reasons[0]


def _is_bytes(type_: Any) -> bool:
    import pyarrow as pa

    types = pa.types
    return bool(
        types.is_integer(type_)
        or types.is_floating(type_)
        or types.is_binary(type_)
        or types.is_large_binary(type_)
        or types.is_fixed_size_binary(type_)
    )


# --------------------------------------------------------------------------- receiving


class FirstMessageCheck(ReceiveInterceptor):
    """Warns if the first message of a typed input is of another type."""

    def __init__(self, inbox: Inbox, node_id: str) -> None:
        self._inbox = weakref.ref(inbox)
        self._node_id = node_id
        self._unchecked: dict[str, InputConfig] = {}

    def add(self, inputs: Iterable[InputConfig]) -> None:
        """Check the first message of these inputs that comes from now on."""
        inbox = self._inbox()
        if inbox is None:
            return
        if not self._unchecked:
            inbox.intercept(self)
        self._unchecked |= {item.id: item for item in inputs}

    def after_poll(self, event: Event | None) -> None:
        if isinstance(event, Input):
            self._check(event)
        elif isinstance(event, Synced):
            for message in event.messages():
                self._check(message)

    def _check(self, event: Input) -> None:
        config = self._unchecked.get(event["id"])
        if config is None or (found := _received_type(event)) is None:
            return
        del self._unchecked[config.id]
        if not self._unchecked and (inbox := self._inbox()) is not None:
            inbox.release(self)
        if reason := _why_none_fits(found, config.shapes):
            message = (
                f"input `{config.id}`: what `{config.source}` sends is no `{config.type}`, "
                f"as the dataflow declares it: {reason}"
            )
            write_log(self._node_id, "warn", message)


def _received_type(event: Input) -> Any:
    """Return the Arrow type of a message; None if the check has to wait for another message."""
    import pyarrow as pa

    content = event._content
    if isinstance(content, Text):
        return pa.string()
    if not isinstance(content, Message):
        return None if is_correlated(content.metadata()) else content.value().type
    if carries_correlation(content):
        return None
    try:
        return decode_arrow(content).type
    except PayloadError:  # the program gets the error when it asks for the value
        return None


# --------------------------------------------------------------------------- sending


def check_sends(config: NodeConfig, ports: Mapping[str, OutputPort | OperatorOutput]) -> None:
    """Check the messages of typed outputs, if ``DORA_RUNTIME_TYPE_CHECK`` is set."""
    wanted = os.environ.get("DORA_RUNTIME_TYPE_CHECK", "").strip().lower()
    mode = _MODES.get(wanted)
    if mode is None:
        if wanted not in _OFF:
            message = (
                f"DORA_RUNTIME_TYPE_CHECK is `{wanted}`, which asks for nothing; it can be warn or error"
            )
            write_log(config.node_id, "warn", message)
        return
    for output in config.outputs:
        if output.shapes:
            ports[output.id].intercept(SendCheck(output, config.node_id, raises=mode == "error"))


class SendCheck(SendInterceptor):
    """Checks the messages of one output."""

    def __init__(self, config: OutputConfig, node_id: str, *, raises: bool) -> None:
        self._config = config
        self._node_id = node_id
        self._raises = raises
        self._known: dict[Any, str] = {}  # Arrow type → why it does not fit, "" if it does

    def send(self, proceed: Callable[[Any, Metadata], None], data: Any, metadata: Metadata) -> None:
        if not (metadata and is_correlated(dict(metadata))):
            type_ = _sent_type(data)
            if type_ is not None:
                self._check(type_)
        proceed(data, metadata)

    def loan(
        self, proceed: Callable[[bytes, int, Metadata], Lent], schema: bytes, size: int, metadata: Metadata
    ) -> Lent:
        # Memory for bytes is asked for as uint8, whatever goes into it.
        if schema != b"C" and not (metadata and is_correlated(dict(metadata))):
            import pyarrow as pa

            self._check(getattr(pa, ARROW_NAMES[schema])())
        return proceed(schema, size, metadata)

    def _check(self, type_: Any) -> None:
        """Warn of a wrong type, once; raises `UnsupportedData` in the mode ``error``."""
        reason = self._known.get(type_)
        if reason is None:
            reason = self._known[type_] = _why_none_fits(type_, self._config.shapes)
            if reason and not self._raises:
                write_log(self._node_id, "warn", self._message(reason))
        if reason and self._raises:
            raise UnsupportedData(self._message(reason))

    def _message(self, reason: str) -> str:
        return (
            f"output `{self._config.id}`: this is no `{self._config.type}`, "
            f"as the dataflow declares it: {reason}"
        )


def _sent_type(data: Any) -> Any:
    """Return the Arrow type of data; None for bytes, which have no type, and for what cannot be sent."""
    if isinstance(data, EncodedArray):
        return data.type
    pa: Any = sys.modules.get("pyarrow")
    numpy: Any = sys.modules.get("numpy")
    if pa is not None and isinstance(data, (pa.Array, pa.ChunkedArray)):
        return data.type
    if pa is not None and isinstance(data, (pa.RecordBatch, pa.Table)):
        return pa.struct(list(data.schema))
    if numpy is not None and isinstance(data, numpy.ndarray):
        import pyarrow

        try:
            return pyarrow.from_numpy_dtype(data.dtype)
        except (pyarrow.ArrowException, NotImplementedError):
            return None
    return None
