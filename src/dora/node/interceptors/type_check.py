"""Are the messages of a node what the dataflow says they are?

The first message of an input that has a type is looked at, and a wrong one is warned about once. What
a node sends is looked at if ``DORA_RUNTIME_TYPE_CHECK`` asks for it: ``warn`` warns, ``error`` raises.
Inputs and outputs without a type are left as they are, so they pay nothing; an input with one pays
until its first message.

Responses, goals and the like are left out: one output may carry them in several types.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from dora.errors import UnsupportedData
from dora.node.events import Event, Input, Text
from dora.node.process import log_line, write_line
from dora.node.receive.input_port import InputPort
from dora.node.send.output import OutputPort
from dora.wire.arrow_formats import ARROW_NAMES
from dora.wire.correlation import carries_correlation, is_correlated
from dora.wire.decode import PayloadError, decode_arrow
from dora.wire.message import Message
from dora.wire.node_config import InputConfig, NodeConfig, OutputConfig

if TYPE_CHECKING:
    from dora.node.operators.operator import OperatorOutput

_MODES: Final = {"1": "warn", "warn": "warn", "true": "warn", "on": "warn", "error": "error"}
_OFF: Final = ("", "0", "off", "no", "false")

# What an Arrow type of the type library may be called by pyarrow, wider types last.
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
    """Return why values of a ``pyarrow.DataType`` are not what a shape of the type library says; "" if
    they are. ``field`` says where in a struct they stand.

    An empty array without a type fits everything. A struct with bytes in it, such as an image, may also be
    sent as the bytes alone, with the rest in the metadata, as published nodes do.
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
    """Return why values are of none of the shapes; "" if they are of one."""
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


def check_first_messages(config: NodeConfig, ports: Iterable[InputPort]) -> None:
    """Let typed inputs look at their first message, and warn if it is of another type."""
    by_id = {item.id: item for item in config.inputs if item.shapes}
    for port in ports:
        if port.id in by_id:
            _check_first(port, by_id[port.id], config.node_id)


def _check_first(port: InputPort, config: InputConfig, node_id: str) -> None:
    poll = port.poll
    waiting = True

    def first() -> Event | None:
        nonlocal waiting
        event = poll()
        if waiting and isinstance(event, Input) and (found := _received_type(event)) is not None:
            waiting = False
            del port.poll  # the one of the class shows again
            if reason := _why_none_fits(found, config.shapes):
                message = (
                    f"input `{config.id}`: what `{config.source}` sends is no `{config.type}`, "
                    f"as the dataflow declares it: {reason}"
                )
                write_line(log_line(node_id, "warn", message))
        return event

    port.poll = first  # type: ignore[method-assign]


def _received_type(event: Input) -> Any:
    """Return the Arrow type of a message; None if it says nothing about the others."""
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
    except PayloadError:  # whoever asks for the value will be told
        return None


# --------------------------------------------------------------------------- sending


def check_sends(config: NodeConfig, ports: Mapping[str, OutputPort | OperatorOutput]) -> None:
    """Let typed outputs look at what they send, if ``DORA_RUNTIME_TYPE_CHECK`` asks for it."""
    wanted = os.environ.get("DORA_RUNTIME_TYPE_CHECK", "").strip().lower()
    mode = _MODES.get(wanted)
    if mode is None:
        if wanted not in _OFF:
            message = (
                f"DORA_RUNTIME_TYPE_CHECK is `{wanted}`, which asks for nothing; it can be warn or error"
            )
            write_line(log_line(config.node_id, "warn", message))
        return
    for output in config.outputs:
        if output.shapes:
            _check_output(ports[output.id], _Judge(output, config.node_id, raises=mode == "error"))


class _Judge:
    """Says of what is sent on one output whether it is of the declared type."""

    def __init__(self, config: OutputConfig, node_id: str, *, raises: bool) -> None:
        self._config = config
        self._node_id = node_id
        self._raises = raises
        self._known: dict[Any, str] = {}  # Arrow type → why it does not fit, "" if it does

    def judge(self, type_: Any) -> None:
        """Warn of a wrong type, once; raises `UnsupportedData` if that is wanted."""
        reason = self._known.get(type_)
        if reason is None:
            reason = self._known[type_] = _why_none_fits(type_, self._config.shapes)
            if reason and not self._raises:
                write_line(log_line(self._node_id, "warn", self._message(reason)))
        if reason and self._raises:
            raise UnsupportedData(self._message(reason))

    def _message(self, reason: str) -> str:
        return (
            f"output `{self._config.id}`: this is no `{self._config.type}`, "
            f"as the dataflow declares it: {reason}"
        )


def _check_output(port: OutputPort | OperatorOutput, judge: _Judge) -> None:
    send: Callable[..., None] = port.send

    def checked_send(data: Any, metadata: Mapping[str, Any] | None) -> None:
        if not (metadata and is_correlated(dict(metadata))):
            type_ = _sent_type(data)
            if type_ is not None:
                judge.judge(type_)
        send(data, metadata)

    port.send = checked_send  # type: ignore[method-assign]
    if isinstance(port, OutputPort):
        _check_loans(port, judge)


def _check_loans(port: OutputPort, judge: _Judge) -> None:
    loan: Callable[..., Any] = port.loan

    def checked_loan(schema: bytes, size: int, metadata: Mapping[str, Any] | None) -> Any:
        # Memory for bytes is asked for as uint8, whatever goes into it.
        if schema != b"C" and not (metadata and is_correlated(dict(metadata))):
            import pyarrow as pa

            judge.judge(getattr(pa, ARROW_NAMES[schema])())
        return loan(schema, size, metadata)

    port.loan = checked_loan  # type: ignore[method-assign]


def _sent_type(data: Any) -> Any:
    """Return the Arrow type of data; None for bytes, whose meaning nobody knows, and for the unsendable."""
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
