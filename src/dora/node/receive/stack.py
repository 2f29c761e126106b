"""The stack of an input: the layers between an engine and the program, and why they are in this order.

`StackBuilder` puts together the stacks of all inputs of a node: at its start and later (``dora node
connect``), for links, timers, text and the values of operators, in processes, in a replay and in virtual
time. A new layer takes a name in `ORDER` and a line in `StackBuilder.port`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from dora.node.receive.input_port import InputPort, WrappingInput
from dora.node.receive.link_input import LinkInput
from dora.node.receive.local_input import LocalInput
from dora.node.receive.path_meter import InputMeter, PathMeter
from dora.node.receive.timer_input import TimerInput
from dora.transport.board import Board
from dora.transport.doorbell import Bell
from dora.transport.interface import Engine, Receiver
from dora.transport.queues import PriorityQueue
from dora.transport.spill import spill_folder
from dora.wire.correlation import kept_message
from dora.wire.node_config import InputConfig, NodeConfig

if TYPE_CHECKING:
    from dora.node.receive.budget_input import OnMiss
    from dora.node.receive.safe_state import OnChange
    from dora.node.receive.sync_port import SyncPort
    from dora.transport.latch import ReadLatch

# From the engine to the program. An input has the layers that its rules ask for.
ORDER: Final = (
    # `PriorityQueue`, for services and actions. It keeps what the queue of the engine would drop, so it has
    # to empty that queue at each poll, and nothing may hold it back.
    "queue",
    # `OtherClock`, for messages from another machine. Above the queue, because messages that are dropped
    # need no correct origin; below the source, which samples path latencies by it.
    "clock",
    # `LatchedReceiver`. It gives out the messages of the latch before the queue's. Below the source,
    # which so counts both as one sequence of numbers.
    "latch",
    # `LinkInput`, `LocalInput` or `TimerInput`: makes events of messages, counts them and what is lost, and
    # closes the input. Below all layers that leave messages out, so that credit and sequence numbers do not
    # depend on their rules.
    "source",
    # `QosInput`: rules with `in_qos`, such as `deadline` and `rate`. Below the budget: a message that is
    # left out misses none, and the time for which `rate` holds a message counts.
    "qos",
    # `BudgetInput`. It reports a late message just before that message; the safe state relies on it.
    "budget",
    # `SafeStateInput`. Above the two layers whose events begin a safe state. The safe value is not from the
    # sender, so their rules do not apply to it.
    "safe state",
    # `WatchedInput`, once the program watches the input. It shows the messages that the rules let pass.
    # Below the replies, which take the answers away.
    "watch",
    # `ReplyInput`, once the program makes a call or asks for a goal. It passes answers on, and holds the
    # other events while the program waits for one. So they are complete when they come here.
    "replies",
    # `SyncPort`. It makes sets of the messages of several inputs, so it stands on their whole stacks.
    "sync",
)

OnClosed = Callable[[InputPort], None]


def insert(port: InputPort, layer: str, wrap: Callable[[InputPort], InputPort]) -> InputPort:
    """Return a stack with one more layer, made by ``wrap`` and put at its place."""
    if ORDER.index(port.layer) < ORDER.index(layer):
        return wrap(port)
    assert isinstance(port, WrappingInput)
    port.put_below(lambda below: insert(below, layer, wrap))
    return port


class StackBuilder:
    """Builds the stacks of one node's inputs.

    ``local_inputs``: by id, the sources to which operators of this process give values.
    """

    def __init__(
        self,
        config: NodeConfig,
        board: Board,
        engine: Engine,
        paths: PathMeter,
        *,
        ring: Callable[[], None],
        make_bell: Callable[[str], Bell],
        latch_reader: Callable[[int], ReadLatch],
        follows_log: bool,
        on_late: OnMiss,
        on_safe_state: OnChange,
    ) -> None:
        """``ring`` wakes this node. ``make_bell`` gets the path of a sender's doorbell, ``latch_reader``
        the line of an output of this machine. ``follows_log``: the inbox gives out the events of an event
        log. That log has the events that budgets, safe states and groups made, and the inbox samples path
        latencies itself. ``on_late`` is called for messages over budget, ``on_safe_state`` when a safe
        state begins or ends.
        """
        self.local_inputs: dict[str, LocalInput] = {}
        self._config = config
        self._board = board
        self._engine = engine
        self._paths = paths
        self._ring = ring
        self._make_bell = make_bell
        self._latch_reader = latch_reader
        self._follows_log = follows_log
        self._on_late = on_late
        self._on_safe_state = on_safe_state

    def receiver(self, item: InputConfig) -> Receiver:
        """Return the receiving end of a link, which a port takes over; raises `DoraError`."""
        if not item.engine_queue_size:
            receiver = self._engine.receiver(item, self._ring)
        else:
            long = msgspec.structs.replace(item, queue_size=item.engine_queue_size)
            held = self._engine.receiver(long, self._ring)
            receiver = PriorityQueue(held, item.queue_size, kept_message(item.keep))
        if not item.machine:
            return receiver
        from dora.node.receive.timestamps import OtherClock  # most nodes have no such input

        return OtherClock(receiver, self._board, item.output_slot)

    def port(self, item: InputConfig, receiver: Receiver | None = None, *, epoch_ns: int = 0) -> InputPort:
        """Return the port of an input: its whole stack but for `sync`; raises `DoraError`.

        ``receiver`` was made earlier, while the former process of this node was running. ``epoch_ns``: the
        start of the dataflow on CLOCK_MONOTONIC, for timers.
        """
        if item.kind == "timer":
            port: InputPort = TimerInput(item, epoch_ns)
        elif item.kind == "link":
            port = self._link(item, receiver)
        else:
            port = self._local(item)
        if item.has_qos and item.kind != "timer":
            from dora.node.receive.qos_input import QosInput

            port = QosInput(port, item, self._board, self._config.other_clocks)
        if item.budgets and not self._follows_log:
            from dora.node.receive.budget_input import BudgetInput

            port = BudgetInput(port, item, self._paths, self._on_late)
        if item.source_rules.safe_state is not None and not self._follows_log:
            from dora.node.receive.safe_state import SafeStateInput

            port = SafeStateInput(port, item, self._board, self._on_safe_state)
        return port

    def groups(self, ports: Mapping[str, InputPort], on_closed: OnClosed) -> list[SyncPort]:
        """Return the ports of the `sync` groups, which stand on the stacks of their inputs."""
        if self._follows_log or not self._config.syncs:
            return []
        from dora.node.receive.sync_port import SyncPort

        config = self._config
        return [
            SyncPort(sync, ports, config.inputs, self._board.words, on_closed, config.other_clocks)
            for sync in config.syncs
        ]

    # ------------------------------------------------------------------ sources

    def _link(self, item: InputConfig, receiver: Receiver | None) -> LinkInput:
        make: Callable[..., LinkInput] = LinkInput
        if item.source_rules.latched:
            from dora.node.receive.latched_input import LatchedInput

            make = partial(LatchedInput, read_latch=self._latch_reader(item.output_slot))
        return make(
            item,
            self.receiver(item) if receiver is None else receiver,
            self._board,
            crosses=bool(item.machine),
            joins_late=self._config.dynamic or item.late,
            make_bell=self._make_bell,
            takes_over=receiver is not None,
            spill_folder=""
            if item.queue_policy == "backpressure" or item.engine_queue_size
            else spill_folder(self._config.run_dir, item.slot),
            meter=self._meter(item),
        )

    def _local(self, item: InputConfig) -> LocalInput:
        port = LocalInput(item, self._board, self._meter(item))
        if item.kind == "local":
            self.local_inputs[item.id] = port
            if item.source_rules.latched:
                port.put_latched(self._latch_reader(item.output_slot)())
        return port

    def _meter(self, item: InputConfig) -> InputMeter | None:
        return None if self._follows_log else InputMeter(self._paths, item.slot)
