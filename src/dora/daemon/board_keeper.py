"""What the daemon does with the board: calling nodes, closing links of the dead, counting at the end."""

from __future__ import annotations

from collections.abc import Mapping

from dora.dataflow.links import Plan
from dora.supervise.result import LinkReport
from dora.transport.board import (
    ASLEEP,
    CLOSED,
    CONTROL,
    DROPPED,
    FIRST,
    RECEIVED,
    SENT,
    STATE,
    UNCONNECTED,
    Board,
)
from dora.transport.doorbell import Bell


class BoardKeeper:
    """The board of one run, seen by its daemon."""

    def __init__(self, board: Board, plan: Plan) -> None:
        self.board = board
        self._plan = plan
        self._bells: dict[str, Bell] = {}
        self._by_consumer: dict[str, list[int]] = {node_id: [] for node_id in plan.configs}
        self._credit_bells: dict[int, str] = {}
        for node_id, config in plan.configs.items():
            for item in config.inputs:
                if item.kind == "link":
                    self._by_consumer[node_id].append(item.slot)
                    self._credit_bells[item.slot] = item.credit_bell
        # By link slot: what was sent when its receiver ended. What is sent afterwards is for nobody.
        self._sent_at_end: dict[int, int] = {}
        self._sent_slots = {link.slot: link.output_slot for link in plan.links}

    def call(self, node_id: str) -> None:
        """Tell a node that a control frame lies on its socket."""
        config = self._plan.configs[node_id]
        self.board.set(config.node_slot, CONTROL, self.board.get(config.node_slot, CONTROL) + 1)
        self._ring(config.bell)

    def close_receivers(self, node_id: str) -> None:
        """Nobody reads this node's inputs any more: senders must neither wait nor send for it."""
        for slot in self._by_consumer[node_id]:
            if self.board.get(slot, STATE) == UNCONNECTED:
                continue
            self._sent_at_end.setdefault(slot, self.board.get(self._sent_slots[slot], SENT))
            self.board.set(slot, STATE, CLOSED)
            if self._credit_bells[slot]:
                self._ring(self._credit_bells[slot])

    def reopen_receivers(self, node_id: str) -> None:
        """A new process reads this node's inputs."""
        for slot in self._by_consumer[node_id]:
            self._sent_at_end.pop(slot, None)

    def sign_of_life(self, node_id: str) -> tuple[bool, tuple[int, ...]]:
        """Return whether a node waits on its doorbell, and all its counters."""
        config = self._plan.configs[node_id]
        counters = [self.board.get(output.slot, SENT) for output in config.outputs]
        counters += [
            self.board.get(item.slot, RECEIVED) + self.board.get(item.slot, DROPPED)
            for item in config.inputs
            if item.kind != "timer"
        ]
        return self.board.get(config.node_slot, ASLEEP) == 1, tuple(counters)

    def drained(self, node_id: str) -> bool:
        """Tell whether everything that a node sent was taken by those who still read."""
        for link in self._plan.links:
            if link.producer != node_id or link.kind != "link":
                continue
            get = self.board.get
            if get(link.slot, STATE) in (UNCONNECTED, CLOSED):
                continue
            known = get(link.slot, FIRST) + get(link.slot, RECEIVED) + get(link.slot, DROPPED)
            if known < get(link.output_slot, SENT):
                return False
        return True

    def report(
        self, text_sent: Mapping[int, int], text_dropped: Mapping[int, int]
    ) -> tuple[LinkReport, ...]:
        """Read off what every link carried. The mappings count the lines of text links, by slot."""
        reports = []
        for link in self._plan.links:
            get = self.board.get
            received, dropped = get(link.slot, RECEIVED), get(link.slot, DROPPED)
            if link.kind == "text":
                sent = text_sent.get(link.slot, 0)
                dropped += text_dropped.get(link.slot, 0)
            elif get(link.slot, STATE) == UNCONNECTED:
                sent = received = dropped = 0
            else:
                at_end = self._sent_at_end.get(link.slot, get(link.output_slot, SENT))
                sent = max(at_end - get(link.slot, FIRST), received + dropped)
                if link.policy == "drop_oldest":
                    # The receiver notices a loss with the next message that it takes, if it takes one.
                    dropped = max(dropped, sent - received - max(link.queue_size, link.room))
            reports.append(
                LinkReport(
                    link=str(link),
                    policy=link.policy,
                    queue_size=link.queue_size,
                    sent=sent,
                    received=received,
                    dropped=dropped,
                    unread=max(0, sent - received - dropped),
                )
            )
        return tuple(reports)

    def close(self) -> None:
        self._bells.clear()
        self.board.close()

    def _ring(self, path: str) -> None:
        bell = self._bells.get(path)
        if bell is None:
            bell = self._bells[path] = Bell(path)
        bell.ring()
