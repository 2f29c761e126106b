"""The executor node: commands at a steady rate out of action chunks."""

from __future__ import annotations

import logging
import sys
import time
from datetime import datetime
from typing import Annotated, Any, Final, Literal

import msgspec

from dora.control import ActionChunk, Blend, ChunkError, ChunkPlayer, PlayedAction
from dora.node.events import (
    DeadlineMissed,
    Event,
    Input,
    InputClosed,
    NodeFailed,
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
    CommandOutput,
    Faults,
    MissingInput,
    SafeAction,
    run_steadily,
    tick_summary,
)

ACTIONS: Final = "actions"
STATE: Final = "state"

log = logging.getLogger("dora.nodes.action_executor")


class ActionExecutorParameters(msgspec.Struct, frozen=True):
    """The ``parameters`` of the node in the dataflow file; they may change while it runs."""

    blend: Blend = "newest"
    fade: Annotated[float, msgspec.Meta(ge=0)] = 0.1  # seconds
    decay: float = 0.01
    interpolate: bool = True
    start: Literal["observation", "arrival"] = "observation"
    on_late: Literal["safe_state", "hold", "stop"] = "safe_state"
    safe_action: SafeAction = "value"


class ActionExecutor:
    """Takes chunks, stops and starts; sends a command at each tick."""

    def __init__(self, node: Node) -> None:
        """Raises `WrongParameter` and `MissingInput`."""
        self._node = node
        self._parameters = read_parameters(ActionExecutorParameters, node.parameters)
        self._player = ChunkPlayer()
        self._output = CommandOutput(node, self._parameters.safe_action)
        self._faults = Faults(log)
        self._outputs = node.node_config()["outputs"]
        self._state = ""
        self._is_late = False  # since the last chunk
        self._chunk: ActionChunk | None = None  # that the last command came from
        self._chunk_metadata: dict[str, Any] = {}
        self.chunks = self.refused = self.late = self.stops = 0
        inputs = node.node_config()["inputs"]
        if ACTIONS not in inputs:
            raise MissingInput("there is no input `actions`; write `actions: policy/actions`")
        source = inputs[ACTIONS]
        self._has_deadline = isinstance(source, dict) and "deadline" in source
        self._configure(self._parameters)

    def _configure(self, parameters: ActionExecutorParameters) -> None:
        """Take parameters, or raise `MissingInput` and change nothing."""
        if parameters.on_late != "hold" and not self._has_deadline:
            raise MissingInput(
                "the input `actions` has no `deadline`, so a policy that hangs would never be late; write "
                "`actions: {source: policy/actions, deadline: 500ms}`, or `parameters: {on_late: hold}`"
            )

        self._output.configure(parameters.safe_action, parameters.fade)  # first: it may refuse
        self._player.configure(
            parameters.blend,
            fade=parameters.fade,
            decay=parameters.decay,
            interpolate=parameters.interpolate,
        )
        self._parameters = parameters

    # ------------------------------------------------------------------ events

    def take(self, event: Event) -> None:
        """Act on an event that is no tick."""
        match event:
            case Input(id=input_id) if input_id == STOP:
                self._stop()
            case Input(id=input_id) if input_id == START:
                self._output.start()
            case Input(id=input_id) if input_id == ACTIONS:
                self._take_chunk(event)
            case SafeStateEntered(id=input_id, reason=reason) if input_id == ACTIONS:
                self._miss(reason)
            case DeadlineMissed(id=input_id) if input_id == ACTIONS:
                self._miss("deadline")
            case InputClosed(id=input_id) if input_id == ACTIONS:
                self._miss("closed")
            case NodeFailed(value=value) if ACTIONS in value["affected_input_ids"]:
                self._miss("failed")
            case ParamUpdate() | ParamDeleted():
                self._change_parameters()
            case _:
                pass

    def _take_chunk(self, event: Input) -> None:
        metadata = event.metadata
        if "safe_state" in metadata:
            return  # the safe value of the policy's output, after its `SAFE_STATE_ENTERED`
        try:
            chunk = ActionChunk.from_message(event.numpy(), metadata, event)
            now = time.monotonic_ns()
            # Moments are on the monotonic clock, so a step of the wall clock harms one chunk at most.
            if self._parameters.start == "arrival":
                chunk = chunk.moved(now - chunk.start_ns)
            else:
                chunk = chunk.moved(now - time.time_ns())
            if self._player.add(chunk, now):
                self.chunks += 1
                self._is_late = False
            else:
                self.refused += 1
        except (ChunkError, ValueError, TypeError) as error:
            self._faults.add(f"a chunk is not used: {error}")

    def _stop(self) -> None:
        self.stops += 1
        self._player.clear()
        self._output.stop()
        self._state = ""  # each stop is confirmed, also one in a stop
        self._report("stopped")

    def _miss(self, reason: str) -> None:
        """The policy is late, or gone."""
        self.late += not self._is_late
        self._is_late = True
        if self._parameters.on_late == "hold":
            return
        self._player.clear()
        if self._parameters.on_late == "stop":
            self._output.stop()
        else:
            self._output.enter(reason)
        self._report(self._name_state(None))

    def _change_parameters(self) -> None:
        try:
            parameters = read_parameters(ActionExecutorParameters, self._node.parameters)
            self._configure(parameters)
        except (WrongParameter, MissingInput) as error:
            log.warning("the parameters stay as they were: %s", error)

    # ------------------------------------------------------------------ commands

    def tick(self) -> None:
        """Send the command for now; nothing before the first chunk."""
        now = time.monotonic_ns()
        played = None if self._output.stopped else self._player.at(now)
        if played is not None:
            chunk = played.chunk
            self._output.send(played.action, self._metadata(played), chunk.source, now)
        elif self._output.reason:
            self._output.send_safe()
        self._report(self._name_state(played))

    def _metadata(self, played: PlayedAction) -> dict[str, Any]:
        """Return where a command comes from; the part that is the same for all steps is made once."""
        chunk = played.chunk
        if chunk is not self._chunk:
            self._chunk = chunk
            observed: datetime = chunk.source.metadata["timestamp"]
            self._chunk_metadata = {"chunk": chunk.number, "observed": observed}
        return {**self._chunk_metadata, "step": played.step, "late": played.is_late}

    def _name_state(self, played: PlayedAction | None) -> str:
        if self._output.stopped:
            return "stopped"
        if played is None:
            return self._output.reason or "waiting"
        return "holding" if played.is_late else "playing"

    def _report(self, state: str) -> None:
        """Log a state that has changed, and send it on the output ``state``, if there is one."""
        if state == self._state:
            return
        self._state = state
        log.info("%s", self._state)
        if STATE in self._outputs:
            import pyarrow as pa

            self._node.send_output(STATE, pa.array([self._state]), follows=())

    def summary(self) -> str:
        """Return what happened, for the log at the end."""
        return (
            f"{self._output.sent} commands out of {self.chunks} chunks; {self.refused} chunks came too "
            f"late, {self._faults.count} were invalid; {self.late} times the policy was late; "
            f"{self.stops} stops"
        )


def run(node: Node) -> None:
    """Execute chunks until the dataflow ends; raises `WrongParameter` and `MissingInput`."""
    executor = ActionExecutor(node)
    run_steadily(node, executor)
    log.info("%s; %s", executor.summary(), tick_summary(node))


if __name__ == "__main__":
    sys.exit(
        run_node_command(
            "dora-action-executor",
            "Send commands at a steady rate out of action chunks.",
            run,
        )
    )
