"""The thread that answers the requests of services that belong together: of an action, of parameters."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from dora.errors import TransportError
from dora.ros2.types.errors import MalformedMessage

if TYPE_CHECKING:
    from dora.ros2.api.reports import DroppedMessages
    from dora.ros2.engine import RequestId, RosNode, ServiceServer
    from dora.ros2.qos import Qos
    from dora.ros2.types.message_type import ServiceType

_log = logging.getLogger("dora.ros2")

Answer = Callable[["RequestId", Any], dict[str, Any] | None]
"""Gets a request, as a struct array of one row; returns the response, or None if it comes later."""


class AnswerThread:
    """Answers requests in a thread of its own, so that clients wait for no method of the program."""

    def __init__(self, node: RosNode, qos: Qos, dropped: DroppedMessages) -> None:
        self._node = node
        self._qos = qos
        self._dropped = dropped
        self._answers: list[tuple[ServiceServer, ServiceType, Answer]] = []
        self._rung: queue.SimpleQueue[int | None] = queue.SimpleQueue()  # places in the list
        self._closed = False

    def serve(self, name: str, type: ServiceType, answer: Answer) -> ServiceServer:
        """Offer a service, whose requests are answered from `start` on."""
        server = self._node.create_server(name, type, self._qos)
        place = len(self._answers)
        self._answers.append((server, type, answer))
        server.set_on_request(partial(self._rung.put, place))
        return server

    def start(self, name: str) -> None:
        """Start the thread, with this name."""
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def close(self) -> None:
        """Leave the services; requests that wait get no response."""
        self._closed = True
        self._rung.put(None)
        for server, _, _ in self._answers:
            server.close()

    def _run(self) -> None:
        while (place := self._rung.get()) is not None:
            server, type, answer = self._answers[place]
            while not self._closed and (request := server.take_request(0)) is not None:
                try:
                    response = answer(request.id, type.request.decode(request.data))
                    if response is not None:
                        server.send_response(request.id, type.response.encode(response))
                except TransportError as error:  # this client has gone; others come
                    self._dropped.add(str(error))
                except MalformedMessage as error:
                    server.counters.malformed += 1
                    self._give_up(server, request.id, str(error))
                except Exception as error:  # noqa: BLE001  # other clients get their answers from this thread
                    _log.exception("a request of %s cannot be answered", server.service)
                    self._give_up(server, request.id, str(error))

    def _give_up(self, server: ServiceServer, request: RequestId, reason: str) -> None:
        self._dropped.add(reason)
        try:
            server.forget(request)
        except TransportError:
            pass  # the engine has ended
