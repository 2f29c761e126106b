"""The gateway of one dataflow on one machine: joins the ports of this machine with the roads to others.

One thread does everything except making connections. It never waits for a network: messages stay in the
queue of their output until a connection takes them, and the receivers here have queues of their own.

The line of a link to another machine on the board is written here, from what the other gateway reports
about the receiver. So back-pressure, closing and observers work as for links inside the machine.
"""

from __future__ import annotations

import math
import os
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from dora._paths import links_socket_of
from dora.errors import DoraError
from dora.gateway.bypasses import MOST_BYPASSES, Bypasses
from dora.gateway.connection import ConnectionEnded, Frame, RoadConnection
from dora.gateway.figures import NetworkFigures
from dora.gateway.meeting import DIAL_AGAIN_AFTER, Meeting, NewBypass, NewRoad
from dora.gateway.outgoing import CONTROL
from dora.gateway.ports import ForwardingPort, Incoming, Sending
from dora.gateway.road import AgesThere, Have, Links, Offer, Road, ShortRoads, WantBypass, decode
from dora.node.host import Host
from dora.transport.board import ASLEEP, STATE, UNCONNECTED, WORDS, Board
from dora.transport.doorbell import Doorbell
from dora.transport.engines import files_of
from dora.transport.fence import fence
from dora.transport.open_files import NO_FREE_FILE, allow_files
from dora.wire.decoders import DecodeError, from_json
from dora.wire.gateway_frame import ACK, DATA, PING, PONG, TEXT
from dora.wire.node_config import GatewayConfig, OutputConfig, RemoteConfig

LEASE: Final = 3.0  # seconds without a sign of life, after which a road is given up
NO_ANSWER_AFTER: Final = 2.0  # seconds without a road until an error is logged
_TICK: Final = 0.1  # seconds between the periodic checks
_START_TICK: Final = 0.01  # the same while receivers are about to come: `Node()` waits for their reports
_APPLY_AGAIN_AFTER: Final = 1.0  # seconds; shared memory may have room again
_PING_EVERY: Final = 0.5  # seconds: one late answer does not end a road
# If both dial, one of two roads is closed again.
_YIELD_TO: Final = 0.3  # seconds that the machine with the later name leaves the other one to dial
_KEPT_ROAD: Final = 3.0  # seconds for which a road is not replaced by one that was dialled at the same time

Log = Callable[[str, str], None]


class Gateway:
    """All streams of one dataflow on one machine."""

    def __init__(self, config: GatewayConfig, commands: int, log: Log) -> None:
        """``commands``: a descriptor with further configurations. Raises `DoraError`, ``OSError``."""
        self._log = log
        self._commands = commands
        self._command_bytes = b""
        self._config = config
        node = config.node
        self._board = Board.open(node.board)
        self._words = self._board.words
        self._asleep = node.node_slot * WORDS + ASLEEP
        self._doorbell = Doorbell(node.bell, commands)
        self._host = Host(None, node, self._board)  # type: ignore[arg-type]  # it has no session
        self._engine = self._host.make_engine()
        self._senders: dict[str, Any] = {}  # of the engine, by channel
        self._numbers = 0
        self._sending: dict[tuple[str, str], Sending] = {}  # by name and machine
        self._by_number: dict[int, Sending] = {}
        self._incoming: dict[str, Incoming] = {}  # by name
        self._roads: dict[str, Road] = {}  # by machine
        self._made: deque[NewRoad | NewBypass] = deque()  # by other threads; a deque needs no lock for that
        self._next_dial: dict[str, float] = {}
        self._alone_since: dict[str, float] = {}  # machine → when its road ended, by the wall clock
        self._silent: set[str] = set()  # machines whose silence was logged
        self._short_roads = ShortRoads()
        self._streams: list[Sending] = []  # the same as `_sending`
        self._figures: dict[str, NetworkFigures] = {}  # by machine
        self._next_tick = 0.0
        self._apply_again_at = math.inf  # unless a part of the configuration could not be applied
        self._delivered: dict[Incoming, bool] = {}  # by the frames read last; wake the receivers again?
        self._poll = select.poll()
        path = links_socket_of(node.run_dir)
        self._meeting = Meeting(node.dataflow_id, config.machine, config.remote, path, self._on_made)
        self._watched: dict[int, tuple[Road, RoadConnection]] = {}
        self._handlers: dict[int, Callable[[], None]] = {}  # of bypasses, and for those who dial
        self._paused: list[int] = []  # descriptors that `poll` leaves out until the next tick
        self._has_logged_full = False
        self._bypasses = Bypasses(config.machine, node.bell, self._meeting, self._roads, self._watch)
        for descriptor in (self._doorbell.fd, commands):
            self._poll.register(descriptor, select.POLLIN)
        self._watch(self._meeting.listener.fileno(), self._meeting.accept)
        self._apply(config)

    def _on_made(self, made: NewRoad | NewBypass) -> None:
        self._made.append(made)
        self._doorbell.ring()

    def _watch(self, descriptor: int, handler: Callable[[], None] | None) -> None:
        """Call a function when a descriptor is readable, or no more."""
        if handler is None:
            del self._handlers[descriptor]
            self._poll.unregister(descriptor)
        else:
            self._handlers[descriptor] = handler
            self._poll.register(descriptor, select.POLLIN)

    # ------------------------------------------------------------------ configuration

    def _apply(self, config: GatewayConfig) -> None:
        """Make the ports of a configuration, and change those that are there.

        A port that cannot be made, such as one without room in shared memory, is tried again soon.
        """
        former, self._config = self._config, config
        # A bypass takes two descriptors here, and one for each that begins on another machine.
        bypasses = 2 * len(config.streams) + MOST_BYPASSES * len(config.remote.reach)
        if not allow_files(files_of(config.node) + 3 * len(config.remote.reach) + bypasses + 64):
            self._log_full()
        self._move(former.remote, config.remote)
        faults: list[DoraError] = []
        for stream in config.streams:
            key = stream.name, stream.machine
            if (known := self._sending.get(key)) is not None:
                known.change(stream)
                continue
            try:
                receiver = self._engine.receiver(stream.item, self._doorbell.ring)
            except DoraError as error:
                faults.append(error)
                continue
            self._numbers += 1
            sending = Sending(self._numbers, stream, receiver, self._board, config.node.run_dir)
            self._sending[key] = self._by_number[self._numbers] = sending
        wanted = {(stream.name, stream.machine) for stream in config.streams}
        for key in self._sending.keys() - wanted:
            sending = self._sending.pop(key)
            self._bypasses.end([sending])
            del self._by_number[sending.number]
            sending.receiver.close()
        self._streams = list(self._sending.values())
        for each in self._streams:
            each.of_output = [other for other in self._streams if other.sent_word == each.sent_word]
        for machine, slot in config.networks.items():
            if machine not in self._figures:
                self._figures[machine] = NetworkFigures(self._words, slot)
        for road in self._roads.values():
            road.use(self._streams)
        for output in config.node.outputs:
            try:
                self._apply_output(output)
            except DoraError as error:
                faults.append(error)
        for road in self._roads.values():
            self._introduce(road)
        if faults and self._apply_again_at == math.inf:
            self._log(
                "error", f"a link with another machine cannot be made, and is tried again: {faults[0]}"
            )
        self._apply_again_at = time.monotonic() + _APPLY_AGAIN_AFTER if faults else math.inf

    def _apply_output(self, output: OutputConfig) -> None:
        """Make the port of an output of another machine, or change it; raises `DoraError`."""
        incoming = self._incoming.get(output.id)
        if incoming is None:
            port = self._host.make_output(
                output,
                self._sender,
                self._engine,
                doorbell=lambda _: self._doorbell,
                port=ForwardingPort,
            )
            latch = getattr(self._senders[output.service], "latch", None)
            self._incoming[output.id] = Incoming(output, port, self._board, latch)
        elif incoming.config != output:
            incoming.change(output, self._sender)

    def _move(self, former: RemoteConfig, remote: RemoteConfig) -> None:
        """Follow machines to other addresses; have nothing to do any more with a part that was given up."""
        self._meeting.remote = remote
        for road in tuple(self._roads.values()):
            # The system would keep a connection with a former address for seconds.
            if remote.listen != former.listen or remote.reach.get(road.machine) != former.reach.get(
                road.machine
            ):
                self._lose(road, "an address has changed")
        for machine in former.reach.keys() - remote.reach.keys():
            self._alone_since.pop(machine, None)  # the daemon has reported that it is lost
            self._silent.discard(machine)
            for each in self._streams:
                if each.config.machine == machine:
                    each.close_links()

    def _sender(self, config: OutputConfig) -> Any:
        """Return the engine's sender for a channel."""
        found = self._senders.get(config.service)
        if found is None:
            found = self._senders[config.service] = self._host.make_sender(config, self._engine)
        return found

    def _introduce(self, road: Road) -> None:
        """Say to the other side which streams there are, and what this machine has of its streams."""
        offers = []
        for each in road.streams:
            each.known_state = skipped, begun = each.state
            first = next(each.latched(0), None)  # what is in the latch comes yet
            if first is not None:
                skipped = min(skipped, first.sequence - 1)
            offers.append((each.number, each.config.name, skipped, begun, each.latch_begins_after()))
        road.say(Offer(offers))
        self._say_what_is_here(road)

    def _say_what_is_here(self, road: Road) -> None:
        """Answer the last offer of the other side, as far as this one knows its outputs by now."""
        for number, name, skipped, begun, latch_begins_after in road.offer.streams:
            incoming = self._incoming.get(name)
            if incoming is not None and self._config.sources.get(name) == road.machine:
                road.incoming[number] = incoming
                incoming.begin(skipped, begun)
                incoming.forget_latched(latch_begins_after)
        road.say(Have([(each.name, each.forwarded) for each in road.incoming.values()]))

    # ------------------------------------------------------------------ the loop

    def run(self) -> None:
        """Pass messages on until the daemon has ended this gateway, or itself."""
        while True:
            now = time.monotonic()
            if is_tick := now >= self._next_tick:
                self._tick(now)
            for road in tuple(self._roads.values()):
                self._pump(road, now)
            if is_tick:  # what waits now is what the network does not take
                self._write_figures(now)
            timeout = self._next_tick - now
            for road in self._roads.values():
                if road.ack_at:
                    timeout = min(timeout, road.ack_at - now)
            if not self._wait(max(timeout, 0.0)):
                return

    def _wait(self, timeout: float) -> bool:
        """Wait until something is to do, and read what has come; return False at the end."""
        for descriptor, _ in self._sleep(timeout):
            if (found := self._watched.get(descriptor)) is not None:
                self._read(*found)
            elif descriptor == self._doorbell.fd:
                self._doorbell.rung = True  # it is cleared before the next sleep
                for road in self._roads.values():
                    road.report_credit()
            elif descriptor == self._commands:
                if not self._read_commands():
                    return False
            elif (handler := self._handlers.get(descriptor)) is not None:
                self._call(descriptor, handler)
        while self._made:
            if isinstance(made := self._made.popleft(), NewRoad):
                self._adopt(made)
            elif not self._bypasses.adopt(made):
                self._add_bypass(made)
        if self._delivered:
            for incoming, again in self._delivered.items():
                incoming.port.wake(again=again)
            for road in self._roads.values():
                road.report_credit()
            self._delivered.clear()
        return True

    def _call(self, descriptor: int, handler: Callable[[], None]) -> None:
        try:
            handler()
        except OSError as error:
            if error.errno not in NO_FREE_FILE:
                raise
            # The connection stays in the queue, so `poll` would return at once, again and again.
            self._poll.unregister(descriptor)
            self._paused.append(descriptor)
            self._log_full()

    def _log_full(self) -> None:
        if not self._has_logged_full:
            self._has_logged_full = True
            self._log(
                "warn",
                "the gateway to other machines may open too few files, so connections may have to wait; "
                "raise the hard limit (`ulimit -n`)",
            )

    def _sleep(self, timeout: float) -> list[tuple[int, int]]:
        """Wait until a message or a descriptor is there; return the descriptors."""
        words = self._words
        self._doorbell.rearm()
        # The flag before the last look at the queues: a sender that has not seen it has sent before.
        words[self._asleep] = 1
        fence()
        has_messages = bool(self._made) or self._has_messages()  # `rearm` may have removed their ring
        try:
            return self._poll.poll(0 if has_messages else timeout * 1000.0)
        finally:
            words[self._asleep] = 0

    def _has_messages(self) -> bool:
        """Return whether an output that could be sent now has a message."""
        words = self._words
        for each in self._streams:
            # The number is written before the message, so an equal one means that none has come.
            out = each.outgoing
            if out.is_hungry and words[each.sent_word] != out.taken and each.receiver.has_messages():
                return True
        return False

    def _read_commands(self) -> bool:
        data = os.read(self._commands, 1 << 20)
        if not data:
            return False
        *lines, self._command_bytes = (self._command_bytes + data).split(b"\n")
        for line in lines:
            self._apply(from_json(line, GatewayConfig))
            self._log("applied", "")  # without some of its ports, too: the daemon counts these
        return True

    def _tick(self, now: float) -> None:
        """Do what is periodic: look for receivers, dial, and find out whether the others are there."""
        starting = False
        while self._paused:
            self._poll.register(self._paused.pop(), select.POLLIN)
        if now >= self._apply_again_at:
            self._apply(self._config)
        for each in self._streams:
            if each.config.machine in self._roads:
                # The other machine says which receivers are there. The daemon may hear later of one that
                # has ended, and close the link of the next one for a moment.
                each.look_for_credit()
            else:
                each.look_who_wants()
            if not each.is_wanted:
                each.skip()
        for road in tuple(self._roads.values()):
            road.report_links()
            road.ages_here.tick(now)
            self._introduce_changed(road)
            if now - road.heard > LEASE:
                self._lose(road, f"it has not answered for {LEASE:g} s")
            elif now >= road.next_ping:
                road.next_ping = now + _PING_EVERY
                road.connections[CONTROL].put(PING, number=time.monotonic_ns())
        self._bypasses.tick(now, self._streams)
        for machine in self._machines():
            if machine not in self._roads:
                starting = True
                self._look_for(machine, now)
        words = self._words
        starting = starting or any(
            words[link.slot * WORDS + STATE] == UNCONNECTED and not link.dynamic
            for incoming in self._incoming.values()
            for link in incoming.config.links
        )
        self._next_tick = now + (_START_TICK if starting else _TICK)

    def _write_figures(self, now: float) -> None:
        for machine, figures in self._figures.items():
            streams = [each for each in self._streams if each.config.machine == machine]
            figures.write(now, self._roads.get(machine), streams)

    def _machines(self) -> set[str]:
        """Return the machines that this one has links with."""
        config = self._config
        return {stream.machine for stream in config.streams} | set(config.sources.values())

    # ------------------------------------------------------------------ roads

    def _look_for(self, machine: str, now: float) -> None:
        """Dial a machine without a road, and log that it does not answer."""
        is_first = self._config.machine < machine
        at = self._next_dial.setdefault(machine, now if is_first else now + _YIELD_TO)
        if now >= at:
            self._next_dial[machine] = now + DIAL_AGAIN_AFTER
            self._meeting.dial(machine)
        since = self._alone_since.get(machine)
        if since is not None and machine not in self._silent and time.time() - since > NO_ANSWER_AFTER:
            self._silent.add(machine)
            at_time = time.strftime("%H:%M:%S", time.localtime(since))
            self._log("error", f"machine `{machine}` has not answered since {at_time}")

    def _adopt(self, made: NewRoad) -> None:
        """Use a road, unless there is one already that the other side also prefers."""
        present = self._roads.get(made.machine)
        road = Road(made, self._words, self._delivered)
        is_known = made.machine in self._machines() and made.machine in self._config.remote.reach
        if not is_known or (present is not None and self._stays(present, road)):
            road.close()
            return
        if present is not None:
            self._end(present)
        self._roads[road.machine] = road
        for connection in road.connections:
            self._receive_on(road, connection)
        since = self._alone_since.pop(road.machine, None)
        if road.machine in self._silent and since is not None:
            self._silent.discard(road.machine)
            seconds = time.time() - since
            self._log("warn", f"machine `{road.machine}` answers again, after {seconds:.1f} s")
        self._next_tick = 0.0
        road.use(self._streams)
        self._introduce(road)

    def _receive_on(self, road: Road, connection: RoadConnection) -> None:
        connection.socket.setblocking(False)
        self._watched[connection.fileno()] = road, connection
        self._poll.register(connection.fileno(), select.POLLIN)

    def _add_bypass(self, made: NewBypass) -> None:
        """Receive on a bypass from another machine."""
        road = self._roads.get(made.machine)
        if road is None or len(road.bypasses) >= MOST_BYPASSES:
            made.socket.close()
        else:
            self._receive_on(road, road.add_bypass(made))

    def _forget(self, connection: RoadConnection) -> None:
        """Watch a connection no more."""
        self._watched.pop(connection.fileno(), None)
        try:
            self._poll.unregister(connection.fileno())
        except (KeyError, ValueError):
            pass

    def _stays(self, present: Road, road: Road) -> bool:
        """Return whether the present road is to be kept: both may have dialled at the same time."""
        # The other side has lost the present road by now: it dials only while it has none.
        if road.began - present.began > _KEPT_ROAD:
            return False
        if road.dialled_here == present.dialled_here:
            return True
        return present.dialled_here == (self._config.machine < present.machine)

    def _lose(self, road: Road, reason: str) -> None:
        """Give up a road; another one is made as soon as possible."""
        if not road.is_open:
            return
        self._end(road)
        self._next_dial.pop(road.machine, None)
        self._next_tick = 0.0
        # Since when there was no sign of life.
        self._alone_since.setdefault(road.machine, time.time() - (time.monotonic() - road.heard))
        self._log("debug", f"machine `{road.machine}`: {reason}")
        if self._short_roads.note_end(road.machine, time.monotonic() - road.began):
            self._log("error", f"connections with machine `{road.machine}` end again and again: {reason}")

    def _end(self, road: Road) -> None:
        for connection in (*road.connections, *road.bypasses):
            self._forget(connection)  # before it is closed, and has no descriptor any more
        road.close()
        self._bypasses.end(road.streams)
        if self._roads.get(road.machine) is road:
            del self._roads[road.machine]
        for each in road.streams:
            each.outgoing.stop()

    # ------------------------------------------------------------------ to the other machines

    def _pump(self, road: Road, now: float) -> None:
        """Send what can go now."""
        if not road.is_open:
            return
        try:
            road.pump(now)
        except ConnectionEnded as error:
            road.closed_there = error.closed_there
            self._lose(road, str(error))
            return
        for connection in road.connections:
            if (connection.waiting > 0) != connection.polls_out:
                connection.polls_out = not connection.polls_out
                events = select.POLLIN | (select.POLLOUT if connection.polls_out else 0)
                self._poll.modify(connection.fileno(), events)

    # ------------------------------------------------------------------ from the other machines

    def _read(self, road: Road, connection: RoadConnection) -> None:
        if not road.is_open:
            return
        road.heard = time.monotonic()
        if connection not in road.connections:
            self._read_bypass(road, connection)
            return
        ages = road.ages_here.of_connection[road.connections.index(connection)]
        try:
            for frame in connection.read():
                kind, flags, stream, number, body = frame
                if kind == DATA:
                    road.deliver(stream, number, body, flags, ages)
                else:
                    self._handle(road, frame)
                    if not road.is_open:
                        return
        except ConnectionEnded as error:
            road.closed_there = error.closed_there
            self._lose(road, str(error))
        except (DecodeError, ValueError, MemoryError) as error:
            self._lose(road, f"it sends what no gateway sends: {error}")

    def _read_bypass(self, road: Road, bypass: RoadConnection) -> None:
        ages = road.ages_here.of_connection[CONTROL]
        try:
            for kind, flags, stream, number, body in bypass.read():
                if kind != DATA or not road.deliver(stream, number, body, flags, ages, is_bypassed=True):
                    break  # the other side sends the message again, on the road
            else:
                return
        except (ConnectionEnded, ValueError, MemoryError):  # likewise
            pass
        self._forget(bypass)
        road.bypasses.remove(bypass)
        bypass.close()

    def _handle(self, road: Road, frame: Frame) -> None:
        kind, _, stream, number, body = frame
        if kind == ACK:
            sending = self._by_number.get(stream)
            # A message on a bypass may be acknowledged before this gateway knows that it was sent.
            if (
                sending is not None
                and sending.config.machine == road.machine
                and number <= self._words[sending.sent_word]
            ):
                if sending.has_bypass:
                    road.note_bypassed(sending)
                sending.outgoing.acknowledge(number, time.monotonic_ns())
                sending.note_arrived()
        elif kind == PING:
            road.connections[CONTROL].put(PONG, number=number)
        elif kind == PONG:
            road.measure((time.monotonic_ns() - number) / 1e9)
        elif kind == TEXT:
            self._take_text(road, body if isinstance(body, bytes) else bytes(body.memory[:number]))

    def _take_text(self, road: Road, data: bytes) -> None:
        match message := decode(data):
            case Offer():
                road.offer = message
                self._say_what_is_here(road)
            case Have(streams=streams):
                for name, arrived in streams:
                    sending = self._sending.get((name, road.machine))
                    if sending is not None and not sending.outgoing.is_open:
                        sending.resume(arrived)
                        if road.round_trip:
                            sending.outgoing.limit.on_round_trip(road.round_trip)
                        sending.note_arrived()
                self._introduce_changed(road)
            case Links(links=links):
                for name, state, taken in links:
                    for each in road.streams:
                        each.take_report(name, state, taken)
                self._introduce_changed(road)
            case WantBypass(token=token):
                self._meeting.dial_bypass(road.machine, token)
            case AgesThere(ages=ages):
                road.ages_there = ages[: len(road.connections)]

    def _introduce_changed(self, road: Road) -> None:
        if any(each.state != each.known_state for each in road.streams):
            self._introduce(road)
