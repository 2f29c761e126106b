"""The taps that clients have on outputs of one run: for how many there is room, and who records."""

from __future__ import annotations

from collections import Counter

from dora.daemon.control_server import Connection
from dora.dataflow.layout import Plan
from dora.dataflow.plan import SPARE_RECEIVERS
from dora.wire.daemon_protocol import DataflowEnded, Ok, OpenTaps, Rejected


class Taps:
    """Outputs are named by their slots on the board, clients by the numbers of their connections."""

    def __init__(self, plan: Plan) -> None:
        self._tapping: dict[int, set[int]] = {}
        self._recorders: dict[int, Connection] = {}  # clients that take the last messages
        self._lost: list[set[int]] = []  # of clients that died, whose taps still take room
        self.change(plan)

    def change(self, plan: Plan) -> None:
        """Change to another plan."""
        links = Counter(item.service for config in plan.configs.values() for item in config.inputs)
        self._room = {  # output slot → its name, and for how many taps there is room
            output.slot: (
                f"{node_id}/{output.id}",
                output.max_receivers - links[output.service] - SPARE_RECEIVERS,
            )
            for node_id, config in plan.configs.items()
            for output in config.outputs
        }

    def open(self, client: Connection, request: OpenTaps) -> Ok | Rejected:
        """Reserve taps, instead of those that the client has; return the answer."""
        number, slots = client.number, set(request.slots)
        others = [taps for other, taps in self._tapping.items() if other != number] + self._lost
        for slot in slots & self._room.keys():
            name, room = self._room[slot]
            if sum(slot in taps for taps in others) >= room:
                who = "1 command looks" if room == 1 else f"{room} commands look"
                return Rejected(
                    f"{who} at `{name}` already, and there is no room for more; end one of them"
                )
        self._tapping[number] = slots
        if request.until_end:
            self._recorders[number] = client
        return Ok()

    def close(self, number: int) -> set[int] | None:
        """Forget the taps of a client, which it has closed; return them, None if it had none."""
        self._recorders.pop(number, None)
        return self._tapping.pop(number, None)

    def lose(self, number: int) -> bool:
        """Note that a client is gone; return whether it left taps, which take room until a clean-up."""
        slots = self.close(number)
        if slots:
            self._lost.append(slots)
        return bool(slots)

    def forget_lost(self) -> None:
        """Count taps of clients that died no longer: they were removed."""
        self._lost.clear()

    @property
    def has_recorders(self) -> bool:
        """Whether a client with taps takes the last messages too."""
        return bool(self._recorders)

    def recorded_slots(self) -> set[int]:
        """Return the outputs that recorders record."""
        return {slot for number in self._recorders for slot in self._tapping[number]}

    def announce_end(self, failed: list[str]) -> None:
        """Inform recorders that the dataflow has ended; ``failed``: the nodes that failed."""
        for client in self._recorders.values():
            client.send(DataflowEnded(failed))
