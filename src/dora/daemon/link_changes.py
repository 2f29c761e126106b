"""Laying links while the dataflow runs: from two plans to what the nodes have to be told.

A link that comes: the sender is told first, so that it rings and gives credit from the first message on;
then the receiver, which begins with the message that is sent next. A link that goes: the receiver is told,
takes what was sent so far, and says so; then the sender is told. A node that has no process learns it all
with its next configuration.

The other end of a link may be on another machine, whose daemon does the same there. Its receiver shows on
the board of this one (`dora.transport.network.links`), which is looked at until a link that goes has
closed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from dora.daemon.accounting import Accounting
from dora.daemon.control_server import Connection
from dora.daemon.event_loop import Loop
from dora.dataflow.model import Dataflow
from dora.dataflow.plan import Link, Plan, RunContext, plan
from dora.transport.board import CLOSED, LINKS_VERSION, STATE, UNCONNECTED, Board
from dora.transport.doorbell import Doorbell
from dora.wire.node_config import ChannelConfig, InputConfig, NodeConfig, OutputConfig
from dora.wire.node_protocol import (
    AttachInput,
    AttachLink,
    DetachInput,
    DetachLink,
    InputAttached,
    InputDetached,
)

ATTACH_PATIENCE = 3.0  # seconds after which it is answered that a busy node has not noticed yet
LOOK_EVERY = 0.05  # seconds between looks whether a receiver on another machine has taken everything
DETACH_PATIENCE = 5.0  # seconds after which a sender need not wait any longer for who was disconnected

OnLaid = Callable[[str], None]
"""Called once all links of a change are laid; with a sentence if one of them could not be."""


def prepared(dataflow: Dataflow, context: RunContext, former: Plan, board: Board) -> Plan:
    """Return the plan of a dataflow to come, whose lines and bells exist; raises ``OSError``."""
    fresh = plan(dataflow, context, former)
    board.allocate(fresh.lines)
    for path in fresh.bells:
        Doorbell.make(path)
    return fresh


class LinkChanges:
    """Tells the nodes of one run what a change of its plan means for them."""

    def __init__(
        self, loop: Loop, keeper: Accounting, members: Mapping[str, Connection], plan: Plan
    ) -> None:
        self._loop = loop
        self._keeper = keeper
        self._members = members
        self._plan = plan
        self._attaching: dict[int, tuple[str, OnLaid]] = {}  # slot of an input → its node
        self._detaching: dict[int, Link] = {}  # links whose receivers have not taken everything yet

    def lay(self, plan: Plan, on_laid: OnLaid) -> None:
        """Go over to another plan; its lines and doorbells exist."""
        former, self._plan = self._plan, plan
        self._keeper.change(plan)
        channels = {item.slot: item.service for config in plan.configs.values() for item in config.inputs}
        for node_id, before, now in _both(former, plan):
            for was, is_ in _outputs(before, now):
                for link in is_.links:
                    if link.slot not in {known.slot for known in was.links}:
                        overflow_channel = _find_overflow_channel(is_, channels[link.slot])
                        is_known = overflow_channel is None or overflow_channel in was.overflow_channels
                        change = self._next_change(is_.slot)
                        self._send(
                            node_id,
                            is_.slot,
                            AttachLink(
                                is_.id,
                                link,
                                change,
                                is_.credit_bell,
                                None if is_known else overflow_channel,
                                now.remote if link.machine else None,
                            ),
                        )
        waits = self._attach_inputs(former, plan, on_laid)
        self._detach(former, plan)
        if not waits:
            on_laid("")

    def attached(self, node_id: str, answer: InputAttached) -> None:
        """Note that a node has made an input, or cannot."""
        asked, on_laid = self._attaching.pop(answer.slot, (node_id, lambda _: None))
        if answer.fault:
            on_laid(f"node `{asked}` cannot receive: {answer.fault}")
        elif not any(other is on_laid for _, other in self._attaching.values()):
            on_laid("")

    def detached(self, answer: InputDetached) -> None:
        """Note that a node has taken all that came on an input."""
        self._end_link(answer.slot)

    def node_gone(self, node_id: str) -> None:
        """Answer for a node whose connection has ended."""
        for slot, (asked, _) in list(self._attaching.items()):
            if asked == node_id:
                self.attached(node_id, InputAttached(slot))
        for slot, link in list(self._detaching.items()):
            if link.consumer == node_id:
                self._end_link(slot)

    # ----------------------------------------------------------------------- inputs

    def _attach_inputs(self, former: Plan, plan: Plan, on_laid: OnLaid) -> bool:
        """Tell nodes of their new inputs; tell whether one of them will answer."""
        waits = []
        for node_id, before, now in _both(former, plan):
            known = {_key(item) for item in before.inputs}
            for item in now.inputs:
                if _key(item) in known or (member := self._members.get(node_id)) is None:
                    continue
                if item.kind != "timer":
                    self._attaching[item.slot] = node_id, on_laid
                    waits.append(item.slot)
                member.send(AttachInput(item, now.remote if item.machine else None))
        if waits:
            self._loop.call_at(time.monotonic() + ATTACH_PATIENCE, lambda: self._give_up(waits))
        return bool(waits)

    def _give_up(self, slots: list[int]) -> None:
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
                member = self._members.get(node_id)
                if member is not None:
                    member.send(DetachInput(item.id, item.slot))
                if item.kind == "link":
                    self._detaching[item.slot] = links[item.slot]
                    if member is None and not links[item.slot].target_machine:
                        self._end_link(item.slot)
        kept = {node_id for node_id, _, _ in _both(former, plan)}
        for node_id in former.configs.keys() - kept:  # its process has ended
            for item in former.configs[node_id].inputs:
                if item.kind == "link":
                    self._detaching[item.slot] = links[item.slot]
                    self._end_link(item.slot)
        waits = list(self._detaching)
        if waits:
            self._loop.call_at(time.monotonic() + DETACH_PATIENCE, lambda: self._let_go(waits))
        if any(link.target_machine for link in self._detaching.values()):
            self._look_afar()

    def _look_afar(self) -> None:
        """Look which receivers on other machines have taken everything, until all have."""
        for slot, link in list(self._detaching.items()):
            if link.target_machine and self._keeper.board.get(slot, STATE) in (CLOSED, UNCONNECTED):
                self._end_link(slot)
        if any(link.target_machine for link in self._detaching.values()):
            self._loop.call_at(time.monotonic() + LOOK_EVERY, self._look_afar)

    def _let_go(self, slots: list[int]) -> None:
        """Free the senders of receivers that still have not taken everything."""
        for slot in slots:
            if slot in self._detaching:
                self._keeper.close_link(slot)
                self._end_link(slot)

    # ----------------------------------------------------------------------- outputs

    def _end_link(self, slot: int) -> None:
        link = self._detaching.pop(slot, None)
        if link is None or (config := self._plan.configs.get(link.producer)) is None:
            return
        output = next((known for known in config.outputs if known.slot == link.output_slot), None)
        if output is None:
            return
        gone = self._keeper.channel_of(slot)
        needed = {
            output.service,
            *(overflow_channel.service for overflow_channel in output.overflow_channels),
        }
        change = self._next_change(output.slot)
        overflow_channel = "" if gone in needed else gone
        self._send(
            link.producer,
            output.slot,
            DetachLink(output.id, slot, change, overflow_channel, link.target_machine),
        )

    def _next_change(self, slot: int) -> int:
        return self._keeper.board.get(slot, LINKS_VERSION) + 1

    def _send(self, node_id: str, slot: int, frame: AttachLink | DetachLink) -> None:
        if (member := self._members.get(node_id)) is not None:
            member.send(frame)
        self._keeper.board.set(slot, LINKS_VERSION, frame.change)


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


def _find_overflow_channel(output: OutputConfig, service: str) -> ChannelConfig | None:
    return next(
        (
            overflow_channel
            for overflow_channel in output.overflow_channels
            if overflow_channel.service == service
        ),
        None,
    )


def _key(item: InputConfig) -> tuple[str, str, str, int]:
    """Return what makes an input the same in two plans."""
    return item.id, item.kind, item.source, item.slot
