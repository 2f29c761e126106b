"""The selector node: commands of the source with the highest priority, at a steady rate."""

from __future__ import annotations

import logging
import sys
import time
from typing import Annotated, Any, Final

import msgspec
import numpy as np

from dora.control import Takeover
from dora.errors import DoraError
from dora.node.events import (
    DeadlineMissed,
    Event,
    Input,
    InputClosed,
    ParamDeleted,
    ParamUpdate,
    SafeStateEntered,
)
from dora.node.node import Node
from dora.nodes.command_line import run_node_command
from dora.nodes.parameters import WrongParameter, read_parameters
from dora.nodes.steady import (
    START,
    STOP,
    TICK,
    CommandOutput,
    Faults,
    MissingInput,
    SafeAction,
    run_steadily,
    tick_summary,
)

ACTIVE: Final = "active"
# Keys that describe the message of the source itself. The command has a time and a shape of its own.
_OWN_KEYS: Final = ("timestamp", "shape", "dtype")

log = logging.getLogger("dora.nodes.selector")

Seconds = Annotated[float, msgspec.Meta(ge=0)]
AboveZero = Annotated[float, msgspec.Meta(gt=0)]


class SelectorParameters(msgspec.Struct, frozen=True):
    """The ``parameters`` of the node in the dataflow file. All but ``sources`` may change while it runs."""

    sources: list[str] | None = None  # highest priority first; None: the inputs as the file has them
    ramp: Seconds = 0.5
    timeout: AboveZero = 0.5  # seconds
    max_speed: AboveZero | None = None  # of each number, per second
    safe_action: SafeAction = "value"


class Selector:
    """Takes commands of several sources, stops and starts; sends one command at each tick."""

    def __init__(self, node: Node) -> None:
        """Raises `WrongParameter` and `MissingInput`."""
        self._node = node
        parameters = read_parameters(SelectorParameters, node.parameters)
        self._given_sources = parameters.sources
        config = node.node_config()
        self._faults = Faults(log)
        self._outputs = config["outputs"]
        self._sources = _sources(parameters.sources, config["inputs"])
        self._takeover = Takeover(self._sources)
        self._output = CommandOutput(node, parameters.safe_action)
        self._latest: dict[str, Input] = {}
        self._reported: str | None = ""
        self.changes = self.stops = 0
        self._configure(parameters)

    def _configure(self, parameters: SelectorParameters) -> None:
        self._output.configure(parameters.safe_action, parameters.ramp)
        self._takeover.configure(
            ramp=parameters.ramp, timeout=parameters.timeout, max_speed=parameters.max_speed
        )

    # ------------------------------------------------------------------ events

    def take(self, event: Event) -> None:
        """Act on an event that is no tick."""
        match event:
            case Input(id=input_id) if input_id == STOP:
                self.stops += 1
                self._takeover.reset()
                self._output.stop()
                self._reported = None  # each stop is confirmed, also one in a stop
                self._report("stopped")
            case Input(id=input_id) if input_id == START:
                self._output.start()
            case Input(id=input_id) if input_id in self._sources:
                self._take_command(event)
            case SafeStateEntered(id=input_id) | DeadlineMissed(id=input_id) | InputClosed(id=input_id) if (
                input_id in self._sources
            ):
                self._takeover.release(input_id)
            case ParamUpdate() | ParamDeleted():
                self._change_parameters()
            case _:
                pass

    def _take_command(self, event: Input) -> None:
        """Take a command. An empty one, or a source in its safe state, releases the arm."""
        action = event.numpy()
        if "safe_state" in event.metadata or not action.size:
            self._takeover.release(event.id)
            return
        try:
            self._takeover.update(event.id, action, time.monotonic_ns())
            self._latest[event.id] = event
        except (DoraError, ValueError, TypeError) as error:
            self._faults.add(f"a command is not used: {error}")

    def _change_parameters(self) -> None:
        try:
            parameters = read_parameters(SelectorParameters, self._node.parameters)
            if parameters.sources != self._given_sources:
                raise WrongParameter("`sources` cannot change while the node runs")
            self._configure(parameters)
        except (WrongParameter, MissingInput) as error:
            log.warning("the parameters stay as they were: %s", error)

    # ------------------------------------------------------------------ commands

    def tick(self) -> None:
        """Send the command for now; nothing before the first source sends."""
        if self._output.stopped:
            self._output.send_safe()
            return
        now = time.monotonic_ns()
        selected = self._takeover.at(now)
        if selected is not None:
            event = self._latest[selected.source]
            metadata: dict[str, Any] = {
                **{key: value for key, value in event.metadata.items() if key not in _OWN_KEYS},
                "source": selected.source,
                "part": selected.part,
            }
            self._output.send(np.ascontiguousarray(selected.action), metadata, event, now)
            self._report(selected.source)
            return
        if self._output.reason:
            self._output.send_safe()
        elif self._output.sent:
            self._takeover.reset()
            self._output.enter("no source")
        if self._output.reason:
            self._report("")

    def _report(self, active: str) -> None:
        """Send the id of the active source on the output ``active``, if there is one."""
        if active == self._reported:
            return
        self._reported = active
        self.changes += 1
        log.info("active: %s", active or "no source")
        if ACTIVE in self._outputs:
            import pyarrow as pa

            self._node.send_output(ACTIVE, pa.array([active]), follows=())

    def summary(self) -> str:
        """Return what happened, for the log at the end."""
        return (
            f"{self._output.sent} commands; {self.changes} changes of the active source; "
            f"{self._faults.count} invalid commands; {self.stops} stops"
        )


def _sources(given: list[str] | None, inputs: dict[str, Any]) -> tuple[str, ...]:
    present = [name for name in inputs if name not in (TICK, STOP, START)]
    if given is None:
        given = present
    if missing := [name for name in given if name not in present]:
        raise MissingInput(f"parameter `sources` names `{missing[0]}`, which is no input for commands")
    if not given or len(set(given)) != len(given):
        raise MissingInput(
            "the node needs inputs for commands, each named once, as `human: teleop/command`"
        )
    return tuple(given)


def run(node: Node) -> None:
    """Select commands until the dataflow ends; raises `WrongParameter` and `MissingInput`."""
    selector = Selector(node)
    run_steadily(node, selector)
    log.info("%s; %s", selector.summary(), tick_summary(node))


if __name__ == "__main__":
    sys.exit(
        run_node_command(
            "dora-selector",
            "Choose between sources of commands by priority, and go from one to the other without a jump.",
            run,
        )
    )
