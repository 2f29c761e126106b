"""The common part of nodes that send a command at each tick: the loop, the stop, the safe state."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

from dora.errors import DoraError
from dora.node.events import Event, Input
from dora.node.node import Node
from dora.wire.counters import LEFT_OUT
from dora.wire.input_rules import INPUT_RULES

SafeAction = Literal["value", "hold"]
"""A declared value is sent in the safe state, or the last command again."""

TICK: Final = "tick"
STOP: Final = "stop"
START: Final = "start"
COMMAND: Final = "command"

Floats = npt.NDArray[np.floating[Any]]

# Sentences may have numbers of the message: without a limit they would fill the memory and the log.
_MOST_KINDS: Final = 100
_STOPPED: Final = b"stopped"  # the state that a node leaves for its next process
_LEAVES_OUT: Final = {name for counter in LEFT_OUT for name in counter.rules}  # attributes of `InputRules`

# Events that are taken before a tick is answered. Inputs take turns, so the oldest message of each input is
# among them; without a limit, a sender without pause would hold up the commands.
_AT_ONCE: Final = 64


class MissingInput(DoraError):
    """The dataflow file does not connect what the node needs; ``str(error)`` says what to write."""


class SteadyNode(Protocol):
    """A node that sends a command at each tick."""

    def take(self, event: Event) -> None:
        """Act on an event; ticks are left to `tick`."""

    def tick(self) -> None:
        """Send the command for now."""


def run_steadily(node: Node, steady: SteadyNode) -> None:
    """Give a node its events, and a tick once all that came before it is taken; returns at the end.

    So a stop that is there when a tick is due comes before its command. A stop must hold, and inputs take
    turns: if a start and a stop are there together, the start goes first, whichever came first.
    """
    most = max(_AT_ONCE, 2 * len(node.node_config()["inputs"]))
    while (event := node.next()) is not None:
        events = [event]
        while len(events) < most and (following := node.try_recv()) is not None:
            events.append(following)
        for each in sorted(events, key=_is_no_start):  # stable: all but the starts stay in order
            if not (isinstance(each, Input) and each.id == TICK):
                steady.take(each)
        if any(isinstance(each, Input) and each.id == TICK for each in events):
            steady.tick()


def _is_no_start(event: Event) -> bool:
    return not (isinstance(event, Input) and event.id == START)


def tick_summary(node: Node) -> str:
    """Return how punctual the ticks were, for the log at the end."""
    ticks = node.statistics().get("timers", {}).get(TICK)
    if ticks is None:
        return "the ticks come from another node"
    return (
        f"{ticks['missed']} ticks missed, late by {ticks['lateness']['p99_ms']:.3f} ms (99 %), "
        f"jitter {ticks['jitter']['p99_ms']:.3f} ms (99 %)"
    )


class Faults:
    """Counts messages that cannot be used, and logs each kind once: a log line takes time as well."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._kinds: set[str] = set()
        self.count = 0

    def add(self, text: str) -> None:
        """Count a fault with a sentence about it."""
        self.count += 1
        if text not in self._kinds and len(self._kinds) < _MOST_KINDS:
            self._kinds.add(text)
            self._log.warning("%s", text)


class CommandOutput:
    """The output for commands. In the safe state it carries a value that stands for them.

    ``reason``: why it is in the safe state; "": it is not. Before the first command or safe state, nothing
    is sent. After the safe state, commands begin at what was sent in it and reach their own values in
    ``ramp`` seconds, so the only jump is the one into the safe state. A stop is remembered for the next
    process of the node.
    """

    def __init__(self, node: Node, safe_action: SafeAction) -> None:
        """Raises `MissingInput` if there is no safe value, or for inputs and outputs that do not do."""
        config = node.node_config()
        _check(config)
        self._node = node
        self._declared: tuple[Any, dict[str, Any]] | None = _safe_value(config)
        self._last: Floats | None = None
        self._from: Floats | None = None  # where the present ramp begins
        self._began_ns = 0
        self._ramp_ns = 0
        self._stopped = node.load_state() == _STOPPED
        self.reason = "stopped" if self._stopped else ""
        self.sent = 0
        self._saving: threading.Thread | None = None  # the state, for the next process
        self.configure(safe_action)

    def configure(self, safe_action: SafeAction, ramp: float = 0.0) -> None:
        """Choose what is sent in the safe state, and the ramp after it; raises `MissingInput`."""
        if safe_action == "value" and self._declared is None:
            raise MissingInput(
                "the output `command` has no `safe_state`, so there is nothing to send when the node is "
                "stopped; write `- command: {safe_state: {value: [0.0, 0.0], type: float32}}`, or "
                "`parameters: {safe_action: hold}` to repeat the last command"
            )
        self._holds = safe_action == "hold"
        self._ramp_ns = int(ramp * 1e9)

    @property
    def stopped(self) -> bool:
        """Whether a stop holds, which only a start ends."""
        return self._stopped

    def stop(self) -> None:
        """Enter the safe state until `start`, and send it at once."""
        self._stopped = True
        self.enter("stopped")
        self._save(_STOPPED)

    def start(self) -> None:
        """End a stop: the safe state lasts until the next command."""
        if self._stopped:
            self._stopped = False
            self.reason = "waiting"
            self._save(b"")

    def _save(self, state: bytes) -> None:
        """Save the state in a thread: a busy disk takes longer than a tick. Threads end in their order."""
        former = self._saving

        def save() -> None:
            if former is not None:
                former.join()
            self._node.save_state(state)

        # No daemon thread: the process ends only once the last state is saved.
        self._saving = threading.Thread(target=save)
        self._saving.start()

    def enter(self, reason: str) -> None:
        """Enter the safe state until the next command, and send it at once. A stop stays a stop."""
        if self.reason and (self.reason == reason or (self._stopped and reason != "stopped")):
            return
        self.reason = reason
        self.send_safe()

    def send(
        self, action: Floats, metadata: Mapping[str, Any], follows: Input | Iterable[Input], now_ns: int
    ) -> None:
        """Send a command; in a stop, the safe state instead."""
        if self._stopped:
            self.send_safe()
            return
        if self.reason:
            self.reason = ""
            self._from = self._safe_numbers(len(action))
            self._began_ns = now_ns
        if self._from is not None:
            gone = now_ns - self._began_ns
            if gone < self._ramp_ns:
                part = gone / self._ramp_ns
                action = (1 - part) * self._from + part * action
            else:
                self._from = None
        self._last = action
        self.sent += 1
        self._node.send_output(COMMAND, action, metadata, follows=follows)

    def send_safe(self) -> None:
        """Send what stands for a command in the safe state, with the reason in ``safe_state``."""
        value: Any
        if not self._holds and self._declared is not None:
            value, metadata = self._declared
        elif self._last is not None:
            value, metadata = self._last, {}
        else:
            return  # no command yet: nothing to hold
        self._node.send_output(COMMAND, value, {**metadata, "safe_state": self.reason}, follows=())

    def _safe_numbers(self, size: int) -> Floats | None:
        """Return what was sent in the safe state as an action; None if it is no action."""
        if self._holds or self._declared is None:
            return self._last
        numbers = np.asarray(self._declared[0])
        fits = len(numbers) == size and np.issubdtype(numbers.dtype, np.number)
        return numbers.astype(np.float32) if fits else None


def _check(config: Mapping[str, Any]) -> None:
    if TICK not in config["inputs"]:
        raise MissingInput(
            "there is no input `tick`; write `tick: dora/timer/100hz` for 100 commands per second"
        )
    if COMMAND not in config["outputs"]:
        raise MissingInput("there is no output `command`; write it into `outputs`")
    stop = config["inputs"].get(STOP)
    for rule in INPUT_RULES:
        if isinstance(stop, dict) and rule.name in stop and rule.attribute in _LEAVES_OUT:
            raise MissingInput(f"the input `stop` has `{rule.name}`, which may leave a stop out; remove it")


def _safe_value(config: Mapping[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    """Return value and metadata of the safe state that the dataflow file gives the output."""
    import pyarrow as pa

    declared = config.get("output_rules", {}).get(COMMAND, {}).get("safe_state")
    if declared is None:
        return None
    return pa.array(declared["value"], declared["type"]), dict(declared.get("metadata", {}))
