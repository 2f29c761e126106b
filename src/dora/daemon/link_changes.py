"""Changes of links while the dataflow runs: from two plans to the frames that nodes get.

A new link: the sender gets its frame first, so that it rings the doorbell and counts credit from the first
message on; then the receiver, which begins with the next message. A removed link: the receiver gets its
frame first, takes what was sent so far, and answers; then the sender. A node without a process gets
everything with its next configuration.

If the other end of a link is on another machine, the daemon there does the same. The state of its receiver
is on the board of this machine (`dora.gateway`), which is polled until a removed link is
closed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from dora.daemon.accounting import Accounting
from dora.daemon.control_server import NodeTable
from dora.daemon.event_loop import Loop
from dora.dataflow.layout import Link, Plan, RunContext
from dora.dataflow.model import Dataflow
from dora.dataflow.plan import plan
from dora.transport.board import CLOSED, LINKS_VERSION, STATE, UNCONNECTED, Board
from dora.transport.doorbell import Doorbell
from dora.wire.node_config import ChannelConfig, InputConfig, LinkConfig, NodeConfig, OutputConfig
from dora.wire.node_protocol import (
    AttachInput,
    AttachLink,
    DetachInput,
    DetachLink,
    InputAttached,
    InputDetached,
)

ATTACH_TIMEOUT = 3.0  # seconds; then a change is answered although a busy node has not confirmed it
CHECK_EVERY = 0.05  # seconds between checks whether a receiver on another machine has taken everything
DETACH_TIMEOUT = 5.0  # seconds; then no sender waits any more for a receiver that was detached

OnApplied = Callable[[str], None]
"""Called once all links of a change exist; with an error message if one could not be made, else ""."""
OnFailed = Callable[[str, InputConfig, str], None]
"""Called with a node, the input that it could not make, and the reason."""


def prepare_plan(dataflow: Dataflow, context: RunContext, former: Plan, board: Board) -> Plan:
    """Return the plan of a changed dataflow, and make its board lines and doorbells; raises ``OSError``."""
    fresh = plan(dataflow, context, former)
    # Before any node hears of the change: without memory it is refused as a whole.
    board.allocate(fresh.lines)
    for path in fresh.bells:
        Doorbell.make(path)
    return fresh


class LinkChanges:
    """Sends the nodes of one run what a change of its plan means for them."""

    def __init__(
        self,
        loop: Loop,
        accounting: Accounting,
        nodes: NodeTable,
        plan: Plan,
        on_failed: OnFailed,
    ) -> None:
        self._loop = loop
        self._accounting = accounting
        self._nodes = nodes
        self._plan = plan
        self._on_failed = on_failed
        self._attaching: dict[int, tuple[str, OnApplied]] = {}  # slot of an input → its node
        self._detaching: dict[int, Link] = {}  # links whose receivers have not taken everything yet

    def apply(self, plan: Plan, on_applied: OnApplied) -> None:
        """Change to another plan, whose board lines and doorbells exist."""
        former, self._plan = self._plan, plan
        self._accounting.change(plan)
        self._remove_latches(former, plan)
        services = {item.slot: item.service for config in plan.configs.values() for item in config.inputs}
        for node_id, before, now in _both(former, plan):
            for was, is_ in _outputs(before, now):
                known = {link.slot for link in was.links}
                channels = [*was.overflow_channels]  # that the sender has
                for link in is_.links:
                    if link.slot not in known:
                        self._attach_link(node_id, channels, is_, link, services[link.slot])
        pending = self._attach_inputs(former, plan, on_applied)
        self._detach(former, plan)
        if not pending:
            on_applied("")

    def _attach_link(
        self,
        node_id: str,
        known: list[ChannelConfig],
        output: OutputConfig,
        link: LinkConfig,
        service: str,
    ) -> None:
        """Send a sender its new link, with the channel of the link if that is new; ``known`` gets it."""
        channel = next((item for item in output.overflow_channels if item.service == service), None)
        if channel in known:
            channel = None  # another one would take the place of the one that is there
        elif channel is not None:
            known.append(channel)
        change = self._next_change(output.slot)
        self._send(node_id, output.slot, AttachLink(output.id, link, change, output.credit_bell, channel))

    def _remove_latches(self, former: Plan, plan: Plan) -> None:
        """Remove the latches of outputs that are gone: nobody can be connected to them any more."""
        kept = {output.slot for config in plan.configs.values() for output in config.outputs}
        for config in former.configs.values():
            for output in config.outputs:
                if output.latched is not None and output.slot not in kept:
                    from dora.transport.latch import latch_path  # few dataflows need it

                    try:
                        os.unlink(latch_path(self._accounting.board.path, output.slot))
                    except OSError:
                        pass  # its node is on another machine, or was never there

    def attached(self, node_id: str, answer: InputAttached) -> None:
        """Handle the answer of a node that has made an input, or could not."""
        # An answer after `ATTACH_TIMEOUT` is not awaited any more, but its fault still counts.
        _, on_applied = self._attaching.pop(answer.slot, (node_id, lambda _: None))
        if answer.fault:
            for slot in [slot for slot, (_, other) in self._attaching.items() if other is on_applied]:
                del self._attaching[slot]
            config = self._plan.configs.get(node_id)
            for item in config.inputs if config is not None else ():
                if item.slot == answer.slot:
                    self._on_failed(node_id, item, answer.fault)
            on_applied(f"node `{node_id}` cannot receive: {answer.fault}")
        elif not any(other is on_applied for _, other in self._attaching.values()):
            on_applied("")

    def detached(self, answer: InputDetached) -> None:
        """Handle the answer of a node that has taken everything from a removed input."""
        self._end_link(answer.slot)

    def node_disconnected(self, node_id: str) -> None:
        """Complete the changes that wait for a node whose connection has ended."""
        for slot, (waiting_node, _) in list(self._attaching.items()):
            if waiting_node == node_id:
                self.attached(node_id, InputAttached(slot))
        for slot, link in list(self._detaching.items()):
            if link.consumer == node_id:
                self._end_link(slot)

    # ----------------------------------------------------------------------- inputs

    def _attach_inputs(self, former: Plan, plan: Plan, on_applied: OnApplied) -> bool:
        """Send nodes their new inputs; return whether one of them will answer."""
        pending = []
        for node_id, before, now in _both(former, plan):
            known = {_key(item) for item in before.inputs}
            for item in now.inputs:
                if _key(item) in known or (connection := self._nodes.get(node_id)) is None:
                    continue
                if item.kind != "timer":
                    self._attaching[item.slot] = node_id, on_applied
                    pending.append(item.slot)
                connection.send(AttachInput(item))
        if pending:
            self._loop.call_later(ATTACH_TIMEOUT, lambda: self._attach_timed_out(pending))
        return bool(pending)

    def _attach_timed_out(self, slots: list[int]) -> None:
        for slot in slots:
            if (found := self._attaching.get(slot)) is not None:
                self.attached(found[0], InputAttached(slot))

    def _detach(self, former: Plan, plan: Plan) -> None:
        links = {link.slot: link for link in former.links}
        for node_id, before, now in _both(former, plan):
            wanted = {_key(item) for item in now.inputs}
            for item in before.inputs:
                if _key(item) in wanted:
                    continue
                connection = self._nodes.get(node_id)
                if connection is not None:
                    connection.send(DetachInput(item.id, item.slot))
                if item.kind == "link":
                    self._detaching[item.slot] = links[item.slot]
                    if connection is None and not links[item.slot].target_machine:
                        self._end_link(item.slot)
        kept = {node_id for node_id, _, _ in _both(former, plan)}
        for node_id in former.configs.keys() - kept:  # its process has ended
            for item in former.configs[node_id].inputs:
                if item.kind == "link":
                    self._detaching[item.slot] = links[item.slot]
                    self._end_link(item.slot)
        pending = list(self._detaching)
        if pending:
            self._loop.call_later(DETACH_TIMEOUT, lambda: self._detach_timed_out(pending))
        if any(link.target_machine for link in self._detaching.values()):
            self._check_remote_receivers()

    def _check_remote_receivers(self) -> None:
        """Check which receivers on other machines have taken everything, until all have."""
        for slot, link in list(self._detaching.items()):
            if link.target_machine and self._accounting.board.get(slot, STATE) in (CLOSED, UNCONNECTED):
                self._end_link(slot)
        if any(link.target_machine for link in self._detaching.values()):
            self._loop.call_later(CHECK_EVERY, self._check_remote_receivers)

    def _detach_timed_out(self, slots: list[int]) -> None:
        """Release the senders of receivers that still have not taken everything."""
        for slot in slots:
            if slot in self._detaching:
                self._accounting.close_link(slot)
                self._end_link(slot)

    # ----------------------------------------------------------------------- outputs

    def _end_link(self, slot: int) -> None:
        link = self._detaching.pop(slot, None)
        if link is None or (config := self._plan.configs.get(link.producer)) is None:
            return
        output = next((known for known in config.outputs if known.slot == link.output_slot), None)
        if output is None:
            return
        gone = self._accounting.channel_of(slot)
        needed = {output.service, *(channel.service for channel in output.overflow_channels)}
        change = self._next_change(output.slot)
        frame = DetachLink(output.id, slot, change, "" if gone in needed else gone)
        self._send(link.producer, output.slot, frame)

    def _next_change(self, slot: int) -> int:
        return self._accounting.board.get(slot, LINKS_VERSION) + 1

    def _send(self, node_id: str, slot: int, frame: AttachLink | DetachLink) -> None:
        # The frame first: a sender that sees the word change reads its socket, and has to find it there.
        self._nodes.send(node_id, frame)
        self._accounting.board.set(slot, LINKS_VERSION, frame.change)


def _both(former: Plan, plan: Plan) -> Iterator[tuple[str, NodeConfig, NodeConfig]]:
    """Yield the nodes that are in both plans."""
    for node_id, now in plan.configs.items():
        if (before := former.configs.get(node_id)) is not None and before.node_slot == now.node_slot:
            yield node_id, before, now


def _outputs(before: NodeConfig, now: NodeConfig) -> Iterator[tuple[OutputConfig, OutputConfig]]:
    known = {output.slot: output for output in before.outputs}
    for output in now.outputs:
        if output.slot in known:
            yield known[output.slot], output


def _key(item: InputConfig) -> tuple[str, str, str, int]:
    """Return what makes an input the same in two plans."""
    return item.id, item.kind, item.source, item.slot
