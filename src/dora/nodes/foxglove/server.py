"""The server to which Foxglove connects, and the requests of its clients."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any, Final, NamedTuple

import foxglove
import pyarrow as pa
from foxglove.websocket import (
    Capability,
    ChannelView,
    Client,
    ClientChannel,
    Parameter,
    PlaybackControlRequest,
    PlaybackState,
    ServerListener,
    StatusLevel,
)

from dora.errors import DoraError
from dora.nodes.foxglove.address import check_address
from dora.observe.formatting import parse_data


class Published(NamedTuple):
    """A message that a client publishes on a topic, as JSON."""

    topic: str
    data: bytes


class SetParameters(NamedTuple):
    """Values that a client wants parameters to have."""

    values: dict[str, Any]


ClientRequest = Published | SetParameters
_BEYOND_INT64: Final = 1 << 63
_MOST_WAITING: Final = 1000  # requests of clients that nobody has taken; the next one is left out, and told


class FoxgloveServer(ServerListener):
    """A server for any number of clients.

    Threads of the SDK call the ``on_…`` methods. They put other requests into a queue, for the
    thread that owns the server; ``wake`` calls it to look.
    """

    def __init__(
        self,
        name: str,
        address: str,
        *,
        control: bool = False,
        wake: Callable[[], None] = lambda: None,
        play: Callable[[PlaybackControlRequest], PlaybackState] | None = None,
        times: tuple[int, int] | None = None,
    ) -> None:
        """Listen; raises `DoraError` if the address cannot be used.

        Clients show ``name``. With ``control``, they may publish and set parameters: the protocol knows no
        password, and any page in a browser of this machine can connect. ``play`` answers requests of the
        player, and ``times`` are begin and end of what it plays, in nanoseconds since the Unix epoch.
        """
        self.context = foxglove.Context()
        self.parameters: Mapping[str, Any] = {}
        self._control = control
        self._wake = wake
        self._play = play
        self._lock = Lock()  # threads of the SDK write what the thread of the owner takes
        self._looking: Counter[str] = Counter()  # topic → clients
        self._advertised: dict[tuple[int, int], ClientChannel] = {}
        self._requests: deque[ClientRequest] = deque()
        self._refusals: deque[str] = deque()
        host, port = check_address(address)
        capabilities = (
            [Capability.Parameters] if play is None else [Capability.PlaybackControl, Capability.Time]
        )
        if control:
            capabilities.append(Capability.ClientPublish)
        try:
            self._server = foxglove.start_server(
                name=name,
                host=host,
                port=port,
                capabilities=capabilities,
                server_listener=self,
                supported_encodings=["json"],
                context=self.context,
                playback_time_range=times,
            )
        except (RuntimeError, ValueError, OSError) as error:
            raise DoraError(f"cannot listen on {host}:{port}: {error}") from None
        self.address = f"ws://{f'[{host}]' if ':' in host else host}:{self._server.port}"

    @property
    def looked_at(self) -> set[str]:
        """The topics that some client looks at."""
        with self._lock:
            return set(self._looking)

    def take_requests(self) -> list[ClientRequest]:
        """Return what clients ask since the last call, in their order; warn them of what was refused."""
        with self._lock:
            found, refusals = list(self._requests), list(self._refusals)
            self._requests.clear()
            self._refusals.clear()
        for text in refusals:
            self.warn(text)
        return found

    def set_parameters(self, values: Mapping[str, Any]) -> None:
        """Send clients the values of all parameters."""
        changed = {name: value for name, value in values.items() if self.parameters.get(name) != value}
        self.parameters = dict(values)  # a new one each time, which threads of the SDK read without a lock
        if changed:
            self._server.publish_parameter_values(_parameters(changed))

    def warn(self, text: str) -> None:
        """Show a warning in the list of problems of all clients."""
        self._server.publish_status(text, StatusLevel.Warning)

    def broadcast_playback(self, state: PlaybackState) -> None:
        """Send clients the state of the player."""
        self._server.broadcast_playback_state(state)

    def broadcast_time(self, time_ns: int) -> None:
        """Send clients the present time; nanoseconds since the Unix epoch."""
        self._server.broadcast_time(time_ns)

    def close(self) -> None:
        """Close the connections to all clients."""
        self._server.stop()

    # ------------------- called by threads of the SDK; one that called it back would wait for itself

    def _refuse(self, text: str) -> None:
        with self._lock:
            if text not in self._refusals:
                self._refusals.append(text)
        self._wake()

    def _ask(self, request: ClientRequest) -> bool:
        """Put a request into the queue; return whether it has room."""
        with self._lock:
            fits = len(self._requests) < _MOST_WAITING
            if fits:
                self._requests.append(request)
        self._wake()
        return fits

    def on_subscribe(self, client: Client, channel: ChannelView) -> None:  # noqa: ARG002
        with self._lock:
            self._looking[channel.topic] += 1
        self._wake()

    def on_unsubscribe(self, client: Client, channel: ChannelView) -> None:  # noqa: ARG002
        with self._lock:
            self._looking[channel.topic] -= 1
            self._looking += Counter()  # only those above zero
        self._wake()

    def on_client_advertise(self, client: Client, channel: ClientChannel) -> None:
        if channel.encoding != "json":
            self._refuse(f"`{channel.topic}`: dora takes messages in JSON, not in {channel.encoding}")
            return
        with self._lock:
            self._advertised[client.id, channel.id] = channel

    def on_client_unadvertise(self, client: Client, client_channel_id: int) -> None:
        with self._lock:
            self._advertised.pop((client.id, client_channel_id), None)

    def on_message_data(self, client: Client, client_channel_id: int, data: bytes) -> None:
        with self._lock:
            channel = self._advertised.get((client.id, client_channel_id))
        if channel is not None and not self._ask(Published(channel.topic, data)):
            self._refuse(f"`{channel.topic}`: messages come faster than they can be sent; one was left out")

    def on_get_parameters(
        self,
        client: Client,  # noqa: ARG002
        param_names: list[str],
        request_id: str | None = None,  # noqa: ARG002
    ) -> list[Parameter]:
        known = self.parameters
        return _parameters({name: known[name] for name in param_names or known if name in known})

    def on_set_parameters(
        self,
        client: Client,  # noqa: ARG002
        parameters: list[Parameter],
        request_id: str | None = None,  # noqa: ARG002
    ) -> list[Parameter]:
        if not self._control:
            self._refuse("parameters can be set only with --control")
            return _parameters(self.parameters)
        if not self._ask(SetParameters({each.name: each.get_value() for each in parameters})):
            self._refuse("parameters change faster than they can be set; a change was left out")
        return _parameters(self.parameters)  # the new values follow when their nodes have them

    def on_playback_control_request(self, request: PlaybackControlRequest) -> PlaybackState | None:
        return None if self._play is None else self._play(request)


def _parameters(values: Mapping[str, Any]) -> list[Parameter]:
    """Return parameters of Foxglove; one that Foxglove has no form for is its JSON as a text."""
    found = []
    for name, value in values.items():
        try:
            if _has_large_number(value):
                raise OverflowError
            found.append(Parameter(name, value=value))
        except (TypeError, ValueError, OverflowError):  # such as a null in a list
            found.append(Parameter(name, value=json.dumps(value, default=str)))
    return found


def _has_large_number(value: Any) -> bool:
    """Return whether a value has an int beyond 64 bits, of which Foxglove would make a float."""
    match value:
        case int():
            return not -_BEYOND_INT64 <= value < _BEYOND_INT64
        case list() | tuple():
            return any(map(_has_large_number, value))
        case dict():
            return any(map(_has_large_number, value.values()))
    return False


def array_of(published: Published) -> pa.Array[Any]:
    """Return the Arrow array that a client means; raises `DoraError` for what is none.

    Foxglove publishes objects: ``{"values": [1, 2]}`` is the array of these values. Any other object is an
    array with one struct.
    """
    text = published.data.decode("utf-8", "replace")
    try:
        found = json.loads(text)
        if isinstance(found, dict) and found.keys() == {"values"}:
            text = json.dumps(found["values"])
        array: pa.Array[Any] = parse_data(text)
    except (ValueError, RecursionError) as error:
        raise DoraError(f"a message for `{published.topic}` cannot be sent: {error}") from None
    return array
