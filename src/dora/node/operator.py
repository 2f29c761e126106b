"""Operators: Python classes that share one process, the runtime.

A file with a ``class Operator``::

    import dora
    from dora import DoraStatus, Event, SendOutput

    class Operator(dora.Operator):
        def on_event(self, dora_event: Event, send_output: SendOutput) -> DoraStatus:
            if dora_event["type"] == "INPUT":
                send_output("out", dora_event["value"], dora_event["metadata"])
            return DoraStatus.CONTINUE
"""

from __future__ import annotations

import enum
import gc
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from time import time_ns
from types import MappingProxyType, ModuleType, NoneType
from typing import TYPE_CHECKING, Any, Protocol

from dora.errors import DoraError
from dora.node.current_event import CurrentEvent
from dora.node.events import Event, Reference, Reload
from dora.node.interceptor import SendInterceptor, surround
from dora.node.receive.local_input import LocalInput
from dora.node.send.output import OutputPort
from dora.wire.correlation import FLUSH
from dora.wire.decode import as_arrow
from dora.wire.message import Header
from dora.wire.metadata import as_received
from dora.wire.node_config import OperatorConfig

_PLAIN = (bool, int, float, complex, str, bytes, NoneType)
_NOTHING = object()


class DoraStatus(enum.Enum):
    """An operator's answer to an event."""

    CONTINUE = 0
    STOP = 1  # this operator ends; its outputs close
    STOP_ALL = 2  # the whole dataflow is stopped


class SendOutput(Protocol):
    """The second argument of ``on_event``; data and metadata as for `Node.send_output`."""

    def __call__(self, output_id: str, data: Any, metadata: Mapping[str, Any] | None = None) -> None: ...


class Operator:
    """Declare to editors and type checkers what an operator has: the base of a user's ``Operator``.

    A class without it works the same. It is made without arguments, and needs a method ``on_event``.
    """

    dataflow_descriptor: dict[str, Any]
    """The dataflow file, parsed, as from `Node.dataflow_descriptor`; set after ``__init__``."""
    parameters: Mapping[str, Any]
    """The parameters of the node, from the YAML or changed since; set after ``__init__``."""

    if TYPE_CHECKING:

        def on_event(self, dora_event: Event, send_output: SendOutput, /) -> DoraStatus:
            """Handle an event, and return what is next."""
            ...


OnEvent = Callable[[Event, SendOutput], Any]


def _ignore(event: Event, send_output: SendOutput) -> DoraStatus:  # noqa: ARG001
    return DoraStatus.STOP


class OperatorError(DoraError):
    """An operator cannot be loaded, or did not return a `DoraStatus`."""


class OperatorOutput:
    """One output of an operator: its links to other processes, and its consumers in this one."""

    def __init__(self, port: OutputPort, consumers: list[LocalInput]) -> None:
        self.port = port
        self.consumers = consumers
        self._words = port.words
        self._interceptors: tuple[SendInterceptor, ...] = ()
        # Values of this type are passed on; `as_arrow` converts all others.
        self._array: Any = getattr(sys.modules.get("pyarrow"), "Array", ())

    def intercept(self, interceptor: SendInterceptor) -> None:
        """Add an interceptor, around those that are there."""
        self._interceptors = (*self._interceptors, interceptor)

    def send(
        self,
        data: Any,
        metadata: Mapping[str, Any] | None,
        *,
        current: CurrentEvent | None = None,
        through_interceptors: bool = True,
    ) -> None:
        """Pass a message on to the consumers, and send it on the links.

        ``current``: what it follows from, instead of the current event.
        """
        if self._interceptors and through_interceptors:
            innermost = partial(self.send, current=current, through_interceptors=False)
            surround(innermost, (each.send for each in self._interceptors))(data, metadata)
            return
        port, words = self.port, self._words
        if words[port.links_version_word] != port.links_version:
            port.on_links_changed()
        consumers = self.consumers
        if consumers:
            if isinstance(data, self._array):
                value = data
            else:
                value, metadata = as_arrow(data, metadata)
            received = as_received(metadata) if metadata else {}
            now = time_ns()
            origin_ns, origin, trail = port.passed_on(now, current)
            header: Header = (b"", 0, 0, 0, 0, 0, 0, now, origin_ns, origin)
            content = Reference(value, received, now, len(consumers) > 1, (header, trail))
            if FLUSH in received and received[FLUSH] is True:
                for consumer in consumers:  # first, so that the message itself is not dropped
                    consumer.flush()
            for consumer in consumers:
                consumer.put(content)
        if port.has_links or not consumers or (words[port.tapped_word] and port.is_tapped()):
            port.send(data, metadata, current=current)


class HostedOperator:
    """One operator of the runtime, with the user's object."""

    def __init__(self, config: OperatorConfig) -> None:
        self.id = config.id
        self.name = "the operator" if config.alone else f"operator `{config.id}`"
        self._who = "" if config.alone else f"{self.name}: "
        self.config = config
        self.ended = False
        self.open_inputs: set[str] = set()
        self._descriptor: dict[str, Any]
        self._parameters: Mapping[str, Any]
        self._module: ModuleType | None = None
        self._operator: Any = None
        self._initial: dict[str, Any]  # what `__init__` set
        self.on_event: OnEvent

    def load(
        self,
        descriptor: dict[str, Any],
        parameters: dict[str, Any],
        make: Callable[[], Any] | None = None,
    ) -> None:
        """Import the file, or take ``make`` instead, and make the ``Operator``.

        Errors of the user's code pass through.
        """
        self._descriptor = descriptor
        self._parameters = MappingProxyType(parameters)
        if make is None:
            self._module = self._import()
        else:
            self._module = ModuleType(self.id)
            self._module.Operator = make  # type: ignore[attr-defined]  # a module made by hand
        self._operator, self._initial, self.on_event = self._make(self._module)

    def reload(self, send_output: SendOutput) -> DoraStatus:
        """Go on with the code that the file has now; return its answer to the event `Reload`.

        Errors of the user's code pass through; the old code is kept then.
        """
        old = self._module
        module = self._import()
        try:
            operator, initial, on_event = self._make(module)
            take_over(operator, self._operator, self._initial)
            status = self.status(on_event(Reload(self.id), send_output))
        except BaseException:
            if old is not None:  # the old code goes on, and its name has to lead to it again
                for name in [name for name, found in sys.modules.items() if found is module]:
                    sys.modules[name] = old
            raise
        gc.collect(1)  # the old module ends as garbage, see `release`
        self._module, self._operator, self._initial, self.on_event = module, operator, initial, on_event
        return status

    def release(self) -> None:
        """Drop the user's object, as nothing is delivered to it any more; its module stays.

        Without a cycle of its own the object ends now. The runtime is full of cycles, and would take it
        along as garbage. Files in garbage are finalized in the order of the collector's list: sorted by who
        refers to whom, if they have survived a collection; else by age, and then the raw file is closed
        before the buffer is flushed. So objects with a cycle of their own survive a collection first.
        """
        if self._operator is not None:
            gc.collect(1)  # older objects have survived one
            self._operator, self._initial, self.on_event = None, {}, _ignore

    def _import(self) -> ModuleType:
        source = self.config.source
        if not os.path.isfile(source):
            raise OperatorError(f"{self._who}the file {source} does not exist")
        directory = os.path.dirname(os.path.abspath(source))
        if directory not in sys.path:
            sys.path.append(directory)
        name = os.path.splitext(os.path.basename(source))[0]
        spec = importlib.util.spec_from_file_location(name, source)
        if spec is None or spec.loader is None:
            raise OperatorError(f"{self._who}{source} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        if name in sys.modules and sys.modules[name] is not self._module:
            # Two operators may come from one file: each gets a module of its own. It is registered as well,
            # so that it ends with all other modules, and not as garbage: see `release`.
            name = f"{name} of {self.id}"
        before = sys.modules.get(name)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            if before is not None:
                sys.modules[name] = before
            raise
        return module

    def _make(self, module: ModuleType) -> tuple[Any, dict[str, Any], OnEvent]:
        """Return the user's object, the attributes that its ``__init__`` set, and its ``on_event``."""
        source = self.config.source
        make = getattr(module, "Operator", None)
        if make is None or make is Operator:  # the base alone was imported
            raise OperatorError(f"{self._who}{source} has no class `Operator`{_meant(module)}")
        try:
            operator = make()
        except TypeError as error:
            if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
                raise  # it comes from inside
            raise OperatorError(
                f"{self._who}class `Operator` in {source} is made without arguments: {error}"
            ) from None
        initial = dict(getattr(operator, "__dict__", {}))
        operator.dataflow_descriptor = self._descriptor
        if not hasattr(operator, "parameters"):  # a name that programs may use for their own
            operator.parameters = self._parameters
        on_event = getattr(operator, "on_event", None)
        if not callable(on_event):
            raise OperatorError(
                f"{self._who}class `Operator` in {source} has no method "
                "`on_event(self, dora_event, send_output)`"
            )
        return operator, initial, on_event

    def handle(self, event: Event, send_output: SendOutput) -> DoraStatus:
        """Pass an event to the user's code; raises `OperatorError` for an answer that is no status."""
        return self.status(self.on_event(event, send_output))

    def status(self, answer: Any) -> DoraStatus:
        """Return what an answer means; raises `OperatorError` for one that is no status."""
        if answer.__class__ is DoraStatus:
            return answer
        try:
            return DoraStatus(answer.value)
        except (AttributeError, ValueError):
            raise OperatorError(
                f"{self._who}on_event must return a DoraStatus, not {answer!r} "
                "(write `return DoraStatus.CONTINUE`)"
            ) from None


def _meant(module: ModuleType) -> str:
    """Return the end of a sentence that names a class of the module whose name is nearly `Operator`."""
    from dora.dataflow.problems import closest  # only after a mistake

    own = [
        name
        for name, item in vars(module).items()
        if isinstance(item, type) and item.__module__ == module.__name__
    ]
    found = closest("Operator", own)
    return f"; it has `{found}`: did you mean `Operator`?" if found else ""


def take_over(new: Any, old: Any, initial: Mapping[str, Any]) -> None:
    """Move the state of an operator to the object of its new code.

    A class with a method ``on_reload(self, old)`` does it itself. Otherwise the new object gets the
    attributes of the old one; except plain values (numbers, texts, tuples of them) that are still those
    that the old ``__init__`` set, according to ``initial``: there the value of the new code counts. So
    an edited threshold counts, and a counter goes on.
    """
    on_reload = getattr(new, "on_reload", None)
    if on_reload is not None:
        on_reload(old)
        return
    attributes = getattr(new, "__dict__", {})
    for name, value in getattr(old, "__dict__", {}).items():
        untouched = initial.get(name, _NOTHING) is value and _is_plain(value)
        if not untouched or name not in attributes:
            attributes[name] = value


def _is_plain(value: Any) -> bool:
    return type(value) in _PLAIN or (type(value) is tuple and all(map(_is_plain, value)))


class Unimported:
    """Imported modules, removed so that the next import runs their files again."""

    def __init__(self, files: Iterable[str]) -> None:
        wanted = {os.path.realpath(file) for file in files}
        self._modules: dict[str, ModuleType] = {
            name: module
            for name, module in list(sys.modules.items())
            if (file := getattr(module, "__file__", None)) and os.path.realpath(file) in wanted
        }
        importlib.invalidate_caches()
        for name in self._modules:
            del sys.modules[name]
            # `from package import module` takes the package's attribute, if it has one.
            package, _, short = name.rpartition(".")
            if package in sys.modules:
                vars(sys.modules[package]).pop(short, None)

    def put_back(self, *, everything: bool) -> None:
        """Restore the modules that were not imported again; with ``everything``, all of them."""
        for name, module in self._modules.items():
            if everything or name not in sys.modules:
                sys.modules[name] = module
                package, _, short = name.rpartition(".")
                if package in sys.modules:
                    vars(sys.modules[package])[short] = module
