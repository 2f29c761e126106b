"""The daemon's use of the board: waking nodes, closing links of ended nodes, counts for the report."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping

from dora.daemon.logs.entry import LogEntry
from dora.daemon.supervisor.result import LinkReport, NetworkReport
from dora.daemon.supervisor.status import FormerPart, PeerStatus
from dora.dataflow.gateway_plan import networks_of
from dora.dataflow.layout import Link, Plan
from dora.transport.board import (
    ASLEEP,
    BEGUN,
    CLOCK_ERROR,
    CLOCK_OFFSET,
    CLOSED,
    CONNECTED,
    CONTROL,
    DROPPED,
    FINAL,
    FIRST,
    FORWARDED,
    RECEIVED,
    RECORDED,
    REPEATED,
    SENT,
    STATE,
    STOPPED,
    UNCONNECTED,
    Board,
    delivered,
    figures_of,
    last_sent,
    link_counts,
    node_counts,
)
from dora.transport.doorbell import Bell
from dora.wire.clock import ClockOffset
from dora.wire.counters import (
    ERRORS,
    FLUSHED,
    LINK_FLAGS,
    NETWORK_FIGURES,
    RESTART_LOSS,
    STREAM_FIGURES,
    NodeCounter,
)
from dora.wire.node_config import InputConfig
from dora.wire.node_protocol import StopFrame, ToNode

GATEWAY = ""  # in place of a node: the gateway, which sends the outputs of other machines here
_GONE_LINKS = 1000  # removed links whose counts are kept for the report; older ones are left out of it


class Accounting:
    """The board of one run, as its daemon uses it."""

    def __init__(self, board: Board, plan: Plan) -> None:
        self.board = board
        self.clock: Callable[[], int] = time.monotonic_ns
        self._bells: dict[str, Bell] = {}
        self._inputs: dict[int, InputConfig] = {}  # by slot, also those that were removed
        # Link slot → messages sent when its receiver ended; later ones have no receiver.
        self._sent_at_end: dict[int, int] = {}
        self._sent_slots: dict[int, int] = {}
        self._gone: deque[Link] = deque()  # removed while the dataflow ran
        self.uncounted_links = 0  # removed links that the report leaves out
        # Node → the lines that it has had: it gets another one if it is removed and added again.
        self._node_lines: dict[str, set[int]] = {}
        self._clock_offsets: Mapping[str, ClockOffset] = {}  # by machine
        self._plan = plan
        self._adopt(plan)

    def _adopt(self, plan: Plan) -> None:
        self._plan = plan
        self._by_consumer: dict[str, list[int]] = {node_id: [] for node_id in plan.configs}
        for node_id, config in plan.configs.items():
            self._node_lines.setdefault(node_id, set()).add(config.node_slot)
            for item in config.inputs:
                if item.kind == "link":
                    self._by_consumer[node_id].append(item.slot)
                    self._inputs[item.slot] = item
        self._by_producer: dict[str, list[Link]] = {}
        for link in plan.links:
            self._by_producer.setdefault(link.producer, []).append(link)
        self._sent_slots.update((link.slot, link.output_slot) for link in plan.links)
        self.set_clocks(self._clock_offsets)

    def change(self, plan: Plan) -> None:
        """Change to another plan. Removed links count until their receivers have taken everything."""
        left = {link.slot for link in plan.links}
        for link in self._plan.links:
            if link.slot not in left:
                self._gone.append(link)
                if len(self._gone) > _GONE_LINKS:
                    self._gone.popleft()
                    self.uncounted_links += 1
                # A receiver that ended before has its number already.
                self._sent_at_end.setdefault(link.slot, self._last_sent(link.output_slot))
        self._adopt(plan)

    def resume(self, former: FormerPart) -> None:
        """Continue the counts of this machine's lost part, as far as other machines know them.

        A message that nobody else got is not known: its number is used again. Messages that had arrived
        here, and were not taken, are lost like the queue of a process that is killed.
        """
        board, plan = self.board, self._plan
        latched = set()
        for node_id, config in plan.configs.items():
            for output in config.outputs:
                board.set(output.slot, SENT, former.sent.get(f"{node_id}/{output.id}", 0))
                if output.latched is not None:
                    latched.add(output.slot)
        for link in plan.links:
            name = f"{link.consumer}/{link.input}"
            if link.kind != "link" or link.target_machine:
                continue
            if not link.source_machine:
                board.set(link.slot, FIRST, board.get(link.output_slot, SENT))
            elif name in former.taken:
                board.set(link.slot, FIRST, former.taken[name])
                board.set(link.slot, STATE, CLOSED)  # not for the first time
                # Messages of a latched output come again.
                for word in (SENT,) if link.output_slot in latched else (SENT, FORWARDED):
                    known = max(board.get(link.output_slot, word), former.taken[name])
                    board.set(link.output_slot, word, known)

    def part_of(self, machine: str, status: PeerStatus) -> FormerPart:
        """Return what is known of the part of a lost machine; its gateway is not heard any more."""
        get = self.board.get
        links = [link for link in self._plan.links if link.kind == "link"]
        outputs = {
            f"{link.producer}/{link.output}": link.output_slot
            for link in links
            if link.source_machine == machine and not link.target_machine
        }
        taken = {
            f"{link.consumer}/{link.input}": get(link.slot, FIRST) + get(link.slot, RECEIVED)
            for link in links
            if link.target_machine == machine and not link.source_machine and get(link.slot, STATE)
        }
        # Receivers may know from its gateway that messages up to BEGUN will not come.
        sent = {name: max(self._last_sent(slot), get(slot, BEGUN)) for name, slot in outputs.items()}
        return FormerPart(status, sent, taken)

    def set_clocks(self, offsets: Mapping[str, ClockOffset]) -> None:
        """Write to each output of another machine how far the clock of this one is ahead."""
        self._clock_offsets = offsets
        for link in self._plan.links:
            if link.source_machine and (clock := offsets.get(link.source_machine)) is not None:
                self.board.set(link.output_slot, CLOCK_OFFSET, clock.offset_ns & (1 << 64) - 1)
                self.board.set(link.output_slot, CLOCK_ERROR, clock.error_ns)

    def channel_of(self, slot: int) -> str:
        """Return the name of the channel that a link uses or used."""
        return self._inputs[slot].service

    def notify(self, node_id: str) -> None:
        """Wake a node for a control frame on its socket."""
        if (config := self._plan.configs.get(node_id)) is None:
            return  # it has just been removed, and reads the rest of its frames without a ring
        # The word first: a node that wakes up without a change sleeps again. It is rung even if it is
        # awake: to read `ASLEEP` first would need a fence (`dora.transport.doorbell`).
        self.board.set(config.node_slot, CONTROL, self.board.get(config.node_slot, CONTROL) + 1)
        self._ring(config.bell)

    def close_receivers(self, node_id: str) -> None:
        """Close the links to a node that reads no more, so that no sender waits for it."""
        gone = [link.slot for link in self._gone if link.consumer == node_id and link.kind == "link"]
        for slot in (*self._by_consumer[node_id], *gone):
            if self.board.get(slot, STATE) != UNCONNECTED:
                # The number first: a sender that waits goes on as soon as the link is closed.
                self._sent_at_end.setdefault(slot, self._last_sent(self._sent_slots[slot]))
                self.close_link(slot)
        for item in self._plan.configs[node_id].inputs:
            if item.kind != "timer":
                for flag in LINK_FLAGS:
                    self.board.set(item.slot, flag.word, 0)

    def close_link(self, slot: int) -> None:
        """Close a link, and wake a sender that waits for its receiver."""
        if self.board.get(slot, STATE) == UNCONNECTED:
            return
        self.board.set(slot, STATE, CLOSED)  # before the ring: the sender looks at it when it wakes up
        if (item := self._inputs.get(slot)) is not None and item.credit_bell:
            self._ring(item.credit_bell)

    def reopen_receivers(self, node_id: str) -> None:
        """Prepare the links to a node for its new process, which has no stop to obey."""
        for slot in self._by_consumer[node_id]:
            self._sent_at_end.pop(slot, None)  # `STATE` stays: the process sets it when its port is there
        self.board.set(self._plan.configs[node_id].node_slot, STOPPED, 0)

    def open_receivers(self, node_id: str) -> None:
        """Open the links to a node of another machine that runs again."""
        for slot in self._by_consumer[node_id]:
            if self.board.get(slot, STATE) == CLOSED:
                self._sent_at_end.pop(slot, None)
                self.board.set(slot, STATE, CONNECTED)

    def release_sends(self, node_id: str, message: ToNode, patience: Callable[[str], float]) -> None:
        """End the waits of a node for full queues, if the message asks it to stop.

        ``patience`` returns for how many seconds it may still wait.
        """
        if not isinstance(message, StopFrame):
            return
        config = self._plan.configs[node_id]
        at = self.clock() + int(patience(node_id) * 1e9)
        before = self.board.get(config.node_slot, STOPPED)
        # A second stop may shorten the wait, and never lengthens it.
        self.board.set(config.node_slot, STOPPED, min(before or at, at))
        for output in config.outputs:
            if output.credit_bell:
                self._ring(output.credit_bell)

    def activity(self, node_id: str) -> tuple[bool, tuple[int, ...]]:
        """Return whether a node waits on its doorbell, and all its counters."""
        config = self._plan.configs[node_id]
        counters = [self.board.get(output.slot, SENT) for output in config.outputs]
        counters += [
            self.board.get(item.slot, RECEIVED) + self.board.get(item.slot, DROPPED)
            for item in config.inputs
            if item.kind != "timer"
        ]
        return self.board.get(config.node_slot, ASLEEP) == 1, tuple(counters)

    def works(self, node_id: str) -> bool:
        """Return whether a node, which runs, does something else than to wait for events."""
        return not self.board.get(self._plan.configs[node_id].node_slot, ASLEEP)

    def drained(self, node_id: str) -> bool:
        """Return whether the receivers that still read have taken everything that a node sent."""
        get = self.board.get
        if node_id == GATEWAY:
            links = [link for link in (*self._gone, *self._plan.links) if link.source_machine]
        else:
            gone = [link for link in self._gone if link.producer == node_id]
            links = [*gone, *self._by_producer.get(node_id, ())]
        for link in links:
            if link.kind != "link" or get(link.slot, STATE) in (UNCONNECTED, CLOSED):
                continue
            if link.target_machine:  # the gateway reads
                if get(link.output_slot, FORWARDED) < get(link.output_slot, SENT):
                    return False
                continue
            known = get(link.slot, FIRST) + get(link.slot, RECEIVED) + get(link.slot, DROPPED)
            if known < get(link.output_slot, FORWARDED if link.source_machine else SENT):
                return False
        return True

    def recorded(self, node_id: str, slots: Collection[int]) -> bool:
        """Return whether recorders have taken all that a node sent, of the outputs that they record."""
        get = self.board.get
        config = self._plan.configs.get(node_id)
        return config is None or all(
            get(output.slot, RECORDED) >= get(output.slot, SENT)
            for output in config.outputs
            if output.slot in slots
        )

    def report(
        self, text_sent: Mapping[int, int], text_dropped: Mapping[int, int]
    ) -> tuple[LinkReport, ...]:
        """Return the counts of every link to this machine, and what was not sent on links to others.

        The mappings count the lines of text links, by slot. A link that has gone and whose receiver was
        never there is left out.
        """
        reports = []
        get = self.board.get
        gone = [link for link in self._gone if link.kind == "text" or get(link.slot, STATE) != UNCONNECTED]
        for link in (*gone, *self._plan.links):
            counts = link_counts(self.board.words, link.slot)  # before the words of which they are a part
            if link.target_machine:  # the other machine counts the rest
                if counts:
                    reports.append(LinkReport(str(link), link.queue_policy, link.queue_size, counts=counts))
                continue
            received, dropped = get(link.slot, RECEIVED), get(link.slot, DROPPED)
            if link.kind == "text":
                sent = text_sent.get(link.slot, 0)
                dropped += text_dropped.get(link.slot, 0)
            elif get(link.slot, STATE) == UNCONNECTED:
                sent = received = dropped = 0
            else:
                at_end = self._sent_at_end.get(link.slot, self._last_sent(link.output_slot))
                sent = max(at_end - get(link.slot, FIRST), received + dropped)
                if link.queue_policy != "backpressure":
                    # The receiver notices a loss with the next message that it takes, if it takes one.
                    dropped = max(dropped, sent - received - max(link.queue_size, link.engine_queue_size))
            for part in (FLUSHED, RESTART_LOSS):  # of the dropped messages
                if part.name in counts:
                    counts[part.name] = min(counts[part.name], dropped)
            reports.append(
                LinkReport(
                    link=str(link),
                    policy=link.queue_policy,
                    queue_size=link.queue_size,
                    sent=sent + get(link.slot, REPEATED),  # by the latch
                    received=delivered(self.board.words, link.slot, counts),
                    dropped=dropped,
                    unread=max(0, sent - received - dropped),
                    counts=counts,
                )
            )
        return tuple(reports)

    def count(self, node_id: str, counter: NodeCounter, times: int = 1) -> None:
        """Add to a counter of a node that no other process writes; also of one that was removed."""
        slot = max(self._node_lines[node_id])  # lines are given out in order
        self.board.set(slot, counter.word, self.board.get(slot, counter.word) + times)

    def count_logged(self, entry: LogEntry) -> None:
        """Count a log entry, if it is an error of a node."""
        if entry.level == "error" and entry.node_id:
            self.count(entry.node_id, ERRORS)

    def node_counts(self, node_id: str) -> dict[str, int]:
        """Return the counters of a node of the dataflow that are not 0, by name."""
        return node_counts(self.board.words, self._plan.configs[node_id].node_slot)

    def report_nodes(self) -> dict[str, dict[str, int]]:
        """Return the counters of all nodes, also of those that were removed: node → name → count."""
        words = self.board.words
        counts = {
            node_id: sum((Counter(node_counts(words, slot)) for slot in slots), Counter())
            for node_id, slots in self._node_lines.items()
        }
        return {node_id: dict(some) for node_id, some in counts.items() if some}

    def report_networks(self) -> tuple[NetworkReport, ...]:
        """Return the figures of the networks to other machines; those without a message are left out."""
        gateway = self._plan.gateway
        if gateway is None:
            return ()
        words = self.board.words
        reports = []
        for network in networks_of(gateway):
            streams = {
                stream.output: figures_of(words, stream.slot, STREAM_FIGURES) for stream in network.streams
            }
            if any(streams.values()):
                figures = figures_of(words, network.slot, NETWORK_FIGURES)
                reports.append(NetworkReport(gateway.machine, network.target, figures, streams))
        return tuple(reports)

    def sent(self, node_id: str) -> dict[str, int]:
        """Return how many messages each output of a node has sent."""
        outputs = self._plan.configs[node_id].outputs
        return {output.id: self.board.get(output.slot, SENT) for output in outputs}

    def set_sent(self, node_id: str, sent: Mapping[str, int]) -> None:
        """Set how many messages a node of another machine has sent, as that machine reports it.

        It does when an output is closed, and when the dataflow changes. The gateway writes ``SENT`` with
        each message that comes, so this is another word.
        """
        for output in self._plan.configs[node_id].outputs:
            if output.id in sent:
                self.board.set(output.slot, FINAL, sent[output.id])

    def _last_sent(self, slot: int) -> int:
        return last_sent(self.board.words, slot)

    def close(self) -> None:
        self._bells.clear()
        self.board.close()

    def _ring(self, path: str) -> None:
        bell = self._bells.get(path)
        if bell is None:
            bell = self._bells[path] = Bell(path)
        bell.ring()
