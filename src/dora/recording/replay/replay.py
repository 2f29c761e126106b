"""Prepare a replay: the dataflow, the order of events for each node that runs again, and the clock.

Message numbers differ from the recording: in a replay each output counts from 1, while a recording may
begin in the middle, or be replayed from there, and may have gaps. So the numbers in the order of events are
translated.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final

from dora.dataflow.layout import text_outputs
from dora.dataflow.loader import load, parse
from dora.dataflow.model import Dataflow
from dora.dataflow.problems import listed
from dora.errors import DataflowError, DoraError
from dora.node.host import EVENT_LOG_SUFFIX
from dora.node.replay.clock import WITHOUT_LIMIT, ReplayClock
from dora.node.replay.inbox import CLOCK_FILE
from dora.recording.mcap.event_order import Numbers, Translation, first_numbers
from dora.recording.mcap.format import to_texts
from dora.recording.mcap.recording import RecordedMessage, Recording
from dora.recording.replay.player import CUT_SUFFIX, window
from dora.recording.replay.replay_dataflow import PlayerSettings, assign_roles, replay_dataflow

if TYPE_CHECKING:
    from dora.daemon.daemon import Daemon

DEFAULT_PATIENCE: Final = 30.0  # seconds that a node waits for a recorded message that does not come


@dataclass(frozen=True)
class ReplayRequest:
    """How to replay. ``speed`` 0: as fast as the nodes can. Times are seconds from the first message.

    ``dataflow``: a file to run instead of the recorded dataflow. ``replace``: nodes; None: those that
    cannot run again. ``free``: nodes take their inputs as they come, with timers of their own, instead of
    in recorded order. ``step``: nothing happens before it is released. ``recorded``: a recorder takes what
    is sent. ``patience``: seconds, for a message that does not come. ``images`` and ``topics`` are as for
    `dora.recording.bags.bag.RosBag`.
    """

    dataflow: str | None = None
    replace: Collection[str] | None = None
    speed: float = 1.0
    loop: bool = False
    begin: float = 0.0
    end: float | None = None
    free: bool = False
    step: bool = False
    patience: float = DEFAULT_PATIENCE
    recorded: bool = False
    images: bool = False
    topics: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)


class Replay:
    """A replay that can be run: ``dataflow`` is what to run."""

    def __init__(self, recording: Recording, request: ReplayRequest) -> None:
        """Decide which nodes are replaced; raises `DoraError`, also for a span of time without messages."""
        self._recording = recording
        self._request = request
        self._begin_ns, self._end_ns = window(recording, request.begin, request.end)
        if not recording.count:
            raise DoraError(f"there is nothing to replay: no message is in {recording.path}")
        if self._begin_ns > recording.last_ns or self._end_ns <= self._begin_ns:
            raise DoraError(
                f"there is nothing to replay from {request.begin:g} s to "
                f"{'the end' if request.end is None else f'{request.end:g} s'}: the recording has "
                f"{recording.duration:.3f} s"
            )
        self.original = self._load()
        self._bag_topics, self._image_topics = recording.take_blocks(self.original)
        recorded = recording.outputs_in(self.original)
        self.roles = assign_roles(self.original, recorded, request.replace)
        if not self.roles.replaced:
            raise DoraError(self._why_none(recorded))
        self.patience = request.patience
        self.ordered = recording.has_orders() and not (request.free or request.loop)

    def _why_none(self, recorded: Collection[str]) -> str:
        there = {node.id for node in self.original.nodes}
        nodes = {topic.partition("/")[0] for topic in recorded}
        if not there & nodes:
            return f"no node of the dataflow is in the recording, but {listed(sorted(nodes))}"
        return (
            "no node can be replaced by this recording: all get their messages from each other; say which "
            f"one with --replace ({listed(sorted(there & nodes))})"
        )

    def yaml(self, directory: str = "") -> str:
        """Return the YAML of the replay dataflow; ``directory``: as for `prepare`."""
        import yaml

        request = self._request
        settings = PlayerSettings(
            file=os.path.abspath(self._recording.path),
            node_id="",  # each player gets its own
            speed=request.speed,
            loop=request.loop,
            begin=request.begin,
            end=request.end,
            images=request.images,
            topics=self._bag_topics,
            image_topics=self._image_topics,
        )
        described = replay_dataflow(
            self.original,
            self.roles,
            to_texts(settings),
            directory=directory,
            ordered=self.ordered,
            lossless=self.ordered or not request.speed,
        )
        text: str = yaml.safe_dump(described, sort_keys=False, allow_unicode=True, width=1 << 20)
        return text

    def prepare(self, directory: str) -> Dataflow:
        """Write the order of events and the clock into a directory; return the dataflow that uses them."""
        if self.ordered:
            self._write_orders(directory)
        clock = ReplayClock.make(
            start_ns=self._begin_ns,
            speed=self._request.speed,
            patience_ns=round(self._request.patience * 1e9),
            ordered=self.ordered,
            recorded=self._request.recorded,
            released_ns=0 if self._request.step else WITHOUT_LIMIT,
        )
        with open(os.path.join(directory, CLOCK_FILE), "wb") as file:
            file.write(clock)
        return self._parse(self.yaml(directory), self._request.env)

    def unordered(self, directory: str) -> list[str]:
        """Return the nodes that run again and take their inputs as they come, after `prepare`."""
        return [
            node_id
            for node_id in self.roles.live
            if not os.path.exists(os.path.join(directory, node_id + EVENT_LOG_SUFFIX))
        ]

    def cut(self, directory: str) -> str:
        """Return, after the run, where players had to stop reading; "" if they read all."""
        for name in sorted(os.listdir(directory)):
            if name.endswith(CUT_SUFFIX):
                with open(os.path.join(directory, name), encoding="utf-8") as file:
                    return file.read()
        return ""

    def messages(self) -> Iterator[RecordedMessage]:
        """Yield the messages that the players will send, in order."""
        return self._recording.messages(self._played(), self._begin_ns, self._end_ns)

    def message_count(self) -> int:
        """Return how many messages the players will send; 0 if only their end will tell."""
        request = self._request
        if request.loop or request.begin or request.end is not None:
            return 0
        return sum(self._recording.topics[name].messages for name in self._played())

    def topics(self) -> list[str]:
        """Return the topics that a recording of this replay needs for a comparison; none mean all."""
        there = {
            f"{node.id}/{output}"
            for node in self.original.nodes
            for output in node.outputs
            if output not in text_outputs(node)
        }
        recorded = self._recording.start.topics
        if set(recorded) >= there:
            return []
        return [topic for topic in recorded if topic.partition("/")[0] not in self.roles.left_out]

    def _played(self) -> list[str]:
        outputs = (
            self._recording.topic_of(node_id, output)
            for node_id in self.roles.replaced
            for output in self.original.node(node_id).outputs
        )
        return [topic for topic in outputs if topic in self._recording.topics]

    # ------------------------------------------------------------------ the dataflow

    def _load(self) -> Dataflow:
        if self._request.dataflow is not None:
            return load(self._request.dataflow, env_overrides=self._request.env)
        start = self._recording.start
        if not self._recording.dataflow:
            raise DoraError(
                f"{self._recording.path} has no dataflow in it; give a file: dora replay RECORDING FILE"
            )
        if not os.path.isdir(start.working_dir):
            raise DoraError(
                f"the folder of the recorded dataflow, {start.working_dir}, is not here; give a file to "
                "run instead: dora replay RECORDING FILE"
            )
        import yaml

        text = yaml.safe_dump(self._recording.dataflow, sort_keys=False, allow_unicode=True, width=1 << 20)
        return self._parse(text, self._request.env)

    def _parse(self, text: str, env: Mapping[str, str]) -> Dataflow:
        working_dir = (
            os.path.dirname(os.path.abspath(self._request.dataflow))
            if self._request.dataflow is not None
            else self._recording.start.working_dir
        )
        try:
            return parse(
                text,
                shown_file=f"the dataflow in {self._recording.path}",
                file=self._recording.start.file if self._request.dataflow is None else None,
                working_dir=working_dir,
                environ=os.environ,
                env_overrides=env,
            )
        except DataflowError as error:
            raise DoraError(f"the recorded dataflow cannot be run any more: {error}") from None

    # ------------------------------------------------------------------ the order of events

    def _write_orders(self, directory: str) -> None:
        numbers = self._numbers()
        # A node may have taken events before the first message and after the last one.
        begin_ns = self._begin_ns if self._request.begin else 0
        end_ns = self._end_ns if self._request.end is not None else WITHOUT_LIMIT
        from_start = self._recording.start.together and not self._request.begin
        known: dict[str, Translation] = {}
        for node_id, data in self._recording.orders():
            if node_id not in self.roles.live:
                continue
            if node_id not in known:
                known[node_id] = Translation(
                    numbers, begin_ns, end_ns, from_start=from_start, latched=self._latched_for(node_id)
                )
            with open(os.path.join(directory, node_id + EVENT_LOG_SUFFIX), "ab") as file:
                file.write(b"".join(known[node_id].of(data)))

    def _latched_for(self, node_id: str) -> dict[str, list[int]]:
        """Return, by input, the numbers of the messages from players that were latched before the begin.

        In a `sync` group, they come with the sets.
        """
        if self._request.begin:
            return {}
        node = self.original.node(node_id)
        grouped = {name for group in node.syncs for name in group.inputs}
        return {
            item.id: numbers
            for item in node.inputs
            if item.id not in grouped and (numbers := self._latched.get(str(item.source)))
        }

    @cached_property
    def _latched(self) -> dict[str, list[int]]:
        """The numbers of messages that were latched before the recording began, by output of a player."""
        found: dict[str, list[int]] = {}
        for recorded in self._recording.latched(self._played()):
            found.setdefault(recorded.topic, []).append(recorded.sequence)
        return found

    def _numbers(self) -> Numbers:
        """Return the translation of message numbers."""
        played = set(self._played())
        tables = {topic: self._table(topic) for topic in played if self._has_gaps(topic)}
        before: dict[str, int] = {}

        def translate(topic: str, number: int) -> int:
            if topic in tables:
                return tables[topic].get(number, 0)
            if topic not in before:
                before[topic] = self._sent_before(topic)
            return number - before[topic]

        return translate

    def _has_gaps(self, topic: str) -> bool:
        end = self._recording.end
        if end is None or self._recording.damage or topic not in end.topics:
            return True
        found = end.topics[topic]
        # Not all missing numbers are losses: a node may be killed after it has counted a message and before
        # it sends it.
        return found.lost > 0 or (found.messages > 0 and found.last - found.first + 1 != found.messages)

    def _table(self, topic: str) -> dict[int, int]:
        found = self._recording.messages([topic], self._begin_ns, self._end_ns)
        return {recorded.sequence: index for index, recorded in enumerate(found, start=1)}

    def _sent_before(self, topic: str) -> int:
        """Return how many messages an output had sent before the part that is replayed."""
        from_the_start = self._recording.start.together and not self._request.begin
        if from_the_start and topic not in self._played():
            return 0
        # A node that runs again does not send again what it had latched before the recording began.
        begin_ns = (
            self._begin_ns
            if topic in self._played()
            else max(self._begin_ns, self._recording.start.started + 1)
        )
        for recorded in self._recording.messages([topic], begin_ns, None):
            return recorded.sequence - 1
        if from_the_start:
            return 0
        return self._first_numbers.get(topic, 1) - 1

    @cached_property
    def _first_numbers(self) -> dict[str, int]:
        """The lowest numbers that nodes took, for outputs of which nothing is recorded."""
        found: dict[str, int] = {}
        inputs: dict[str, list[str]] = {}
        for node_id, data in self._recording.orders():
            first_numbers(data, inputs.setdefault(node_id, []), found)
        return found


# The end of a replay in which nodes take their inputs in any order.
#
# A node ends when all its inputs are closed, so most replays end by themselves. Nodes that wait for each
# other, such as a client and its server, would not: they are stopped once all players have ended, all nodes
# wait, and no message is sent any more.

_CHECK_EVERY: Final = 0.2  # seconds
_QUIET: Final = 1.0  # seconds without a message and without a node that works


class EndDetection:
    """Detects the end of a replay, in the daemon's event loop."""

    def __init__(self, daemon: Daemon, players: Collection[str], patience: float) -> None:
        """``patience``: seconds after all was read that players sent, even if nodes still work."""
        self._daemon = daemon
        self._players = players
        self._patience = patience
        self._traffic = -1
        self._quiet_since = 0.0
        self._all_read = 0.0  # when
        self._check_later()

    def _check_later(self) -> None:
        self._daemon.loop.call_at(time.monotonic() + _CHECK_EVERY, self._check)

    def _check(self) -> None:
        now = time.monotonic()
        run = self._daemon.supervisor.state
        if run.done:
            return
        if all(run.nodes[node_id].phase == "ended" for node_id in self._players):
            works = self._daemon.works()
            received, dropped, _ = self._daemon.counts(())
            traffic = received + dropped
            if works or traffic != self._traffic:
                self._traffic, self._quiet_since = traffic, now
            if not self._all_read or (works and not self._daemon.drained(self._players)):
                self._all_read = now
            if now - self._quiet_since >= _QUIET or now - self._all_read >= self._patience:
                self._daemon.stop("the recording is over")
                return
        self._check_later()
