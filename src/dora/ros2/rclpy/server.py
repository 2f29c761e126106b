"""The process of the rclpy engine. The Python of a ROS runs this file, so it imports nothing of dora.

``python server.py FD DOMAIN``: FD is a Unix socket to the process that has started this one. Both sides
send frames: two lengths of 4 bytes (little endian), a header in JSON, and the bytes of a message. A header
with ``call`` gets one with ``reply``. The process ends when the other side does.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from typing import Any

LENGTHS = struct.Struct("<II")
END_TIMEOUT = 2.0  # seconds; less than the other side waits before it kills this process
MAX_OPEN = 10_000  # requests of a server without a response; the next one counts as dropped
HIDDEN = "_dora_"  # the first letters of the nodes that look at the graph
# The parts of an action: the end of the name of their type, and their name in rclpy.
ACTION_PARTS = {
    "SendGoal": "SendGoalService",
    "GetResult": "GetResultService",
    "FeedbackMessage": "FeedbackMessage",
}
# Done by the thread of the executor: it fails if another thread destroys what it is about to wait for.
IN_EXECUTOR = ("close", "close_node")
GRAPH_PERIOD = 0.25  # seconds; rclpy has no event for a change of the graph, which is seen so much later


def read_exactly(connection: socket.socket, size: int) -> bytearray:
    """Return so many bytes; raises `EOFError` at the end."""
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = connection.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]
    return data


def read_frame(connection: socket.socket) -> tuple[dict[str, Any], bytes]:
    """Return the header and the bytes of a frame; raises `EOFError` at the end."""
    header_size, size = LENGTHS.unpack(read_exactly(connection, LENGTHS.size))
    header = json.loads(bytes(read_exactly(connection, header_size)))
    return header, bytes(read_exactly(connection, size))


def write_frame(connection: socket.socket, header: dict[str, Any], data: Any = b"") -> None:
    """Send a frame; one thread at a time."""
    text = json.dumps(header).encode()
    start = LENGTHS.pack(len(text), len(data)) + text
    if len(data) < 65536:
        connection.sendall(start + bytes(data))
    else:  # without a copy
        connection.sendall(start)
        connection.sendall(data)


class Server:
    """Does with rclpy what the other side asks for."""

    def __init__(self, connection: socket.socket, domain: int) -> None:
        import rclpy
        from rclpy.context import Context
        from rclpy.executors import SingleThreadedExecutor

        self.connection = connection
        # The executor and the thread that reads both send, and a frame may go out in several calls.
        self.sending = threading.Lock()
        self.context = Context()
        rclpy.init(args=[], context=self.context, domain_id=domain)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.rclpy = rclpy
        self.nodes: dict[int, Any] = {}
        self.things: dict[int, tuple[Any, Any]] = {}  # number → node, publisher or other
        self.calls: dict[int, tuple[Any, Any]] = {}  # number → client, future of the response
        # number of a server → number of a request → how to answer it
        self.requests: dict[int, dict[int, tuple[Callable[..., None], Any, Any]]] = {}
        self.next_request = 0
        self.ending = False
        self.seen: Any = None  # the last graph in short
        # It looks at the graph, also when the other side has no node. Its first letter hides it from lists,
        # as for the daemon of `ros2`.
        self.watch = self.make_node(f"{HIDDEN}{os.getpid()}", "/")
        self.watch.create_timer(GRAPH_PERIOD, self.look_at_graph)

    # -------------------------------------------------------------- frames

    def send(self, header: dict[str, Any], data: Any = b"") -> None:
        with self.sending:
            try:
                write_frame(self.connection, header, data)
            except OSError:
                os._exit(0)  # the other side is gone

    def run(self) -> None:
        self.send({"ready": True, "rmw": self.rmw()})
        threading.Thread(target=self.read, daemon=True).start()
        try:
            self.executor.spin()
        except Exception:  # in the middle of its work it notices the end with an exception
            if not self.ending:
                raise
        try:
            self.leave()
        finally:
            os._exit(0)

    def rmw(self) -> str:
        return str(self.rclpy.get_rmw_implementation_identifier())

    def read(self) -> None:
        try:
            while True:
                header, data = read_frame(self.connection)
                self.handle(header, data)
        except (EOFError, OSError):
            self.ending = True  # first: `run` looks at it when the executor fails
            # In any case soon: rclpy may wait for the network.
            timer = threading.Timer(END_TIMEOUT, os._exit, [1])
            timer.daemon = True
            timer.start()
            self.executor.shutdown(timeout_sec=END_TIMEOUT)  # the thread in `run` goes on

    def leave(self) -> None:
        """Leave the graph, so that the others need not wait until they miss this process."""
        for node in (*self.nodes.values(), self.watch):
            self.executor.remove_node(node)
            node.destroy_node()
        self.rclpy.shutdown(context=self.context)

    def handle(self, header: dict[str, Any], data: bytes) -> None:
        call, do = header.pop("call", None), header.pop("do")
        if data:
            header["data"] = data
        if do in IN_EXECUTOR:
            self.executor.create_task(self.answer, call, do, header)
        else:
            self.answer(call, do, header)

    def answer(self, call: int | None, do: str, values: dict[str, Any]) -> None:
        try:
            result = getattr(self, "do_" + do)(**values)
        except Exception as error:  # noqa: BLE001  # the other side raises or logs it
            self.send({"reply": call, "error": reason_of(error), "do": do})
            return
        if call is not None:
            self.send({"reply": call, "result": result})

    # -------------------------------------------------------------- nodes, topics

    def make_node(self, name: str, namespace: str) -> Any:
        node = self.rclpy.create_node(
            name,
            context=self.context,
            namespace=namespace,
            cli_args=[],
            use_global_arguments=False,
            enable_rosout=False,
            start_parameter_services=False,
        )
        self.executor.add_node(node)
        return node

    def do_node(self, number: int, name: str, namespace: str) -> None:
        self.nodes[number] = self.make_node(name, namespace)

    def do_close_node(self, number: int) -> None:
        node = self.nodes.pop(number)
        self.executor.remove_node(node)
        node.destroy_node()

    def do_publisher(self, number: int, node: int, topic: str, type: str, qos: Any) -> None:
        owner = self.nodes[node]
        self.things[number] = (owner, owner.create_publisher(find_type(type), topic, make_qos(qos)))

    def do_publish(self, number: int, data: bytes = b"") -> None:
        thing = self.things.get(number)
        if thing is not None:
            thing[1].publish(data)

    def do_subscription_count(self, number: int) -> int:
        return int(self.things[number][1].get_subscription_count())

    def do_subscription(self, number: int, node: int, topic: str, type: str, qos: Any) -> None:
        owner = self.nodes[node]

        def on_message(message: bytes) -> None:
            self.send({"message": number}, message)

        def on_lost(event: Any) -> None:
            self.send({"lost": number, "count": event.total_count_change})

        events = events_module()
        values = (find_type(type), topic, on_message, make_qos(qos))
        try:
            callbacks = events.SubscriptionEventCallbacks(message_lost=on_lost)
            subscription = owner.create_subscription(*values, raw=True, event_callbacks=callbacks)
        except events.UnsupportedEventTypeError:  # this RMW does not tell
            subscription = owner.create_subscription(*values, raw=True)
        self.things[number] = (owner, subscription)

    def do_close(self, number: int) -> None:
        owner, thing = self.things.pop(number)
        self.requests.pop(number, None)
        for id, call in list(self.calls.items()):  # the executor takes others out meanwhile
            if call[0] is thing:
                self.calls.pop(id, None)
        for destroy in ("publisher", "subscription", "client", "service"):
            if getattr(owner, "destroy_" + destroy)(thing):
                return

    # -------------------------------------------------------------- services

    def do_client(self, number: int, node: int, service: str, type: str, qos: Any) -> None:
        owner = self.nodes[node]
        self.things[number] = (
            owner,
            owner.create_client(find_type(type), service, qos_profile=make_qos(qos)),
        )

    def do_is_ready(self, number: int) -> bool:
        return bool(self.things[number][1].service_is_ready())

    def do_request(self, number: int, id: int, data: bytes = b"") -> None:
        from rclpy.serialization import deserialize_message, serialize_message

        client = self.things[number][1]
        try:
            future = client.call_async(deserialize_message(data, client.srv_type.Request))
        except Exception as error:  # noqa: BLE001  # the one who calls gets it
            self.send({"response": number, "id": id, "error": reason_of(error)})
            return
        self.calls[id] = (client, future)

        def on_done(done: Any) -> None:
            self.calls.pop(id, None)
            if done.exception() is not None:
                self.send({"response": number, "id": id, "error": reason_of(done.exception())})
            else:
                self.send({"response": number, "id": id}, serialize_message(done.result()))

        future.add_done_callback(on_done)

    def do_forget_call(self, id: int) -> None:
        client, future = self.calls.pop(id, (None, None))
        if client is not None:
            client.remove_pending_request(future)

    def do_service(self, number: int, node: int, service: str, type: str, qos: Any) -> None:
        from rclpy.serialization import serialize_message

        owner = self.nodes[node]
        made = owner.create_service(
            find_type(type), service, lambda request, _: request, qos_profile=make_qos(qos)
        )
        respond = made.send_response
        requests = self.requests[number] = {}

        # The executor calls this with the value of the callback, which is the request. So the response can
        # come later, and the executor is free meanwhile.
        def send_response(request: Any, header: Any) -> None:
            if len(requests) >= MAX_OPEN:
                self.send({"request": number, "id": None})
                return
            self.next_request += 1
            requests[self.next_request] = (respond, header, made.srv_type.Response)
            self.send({"request": number, "id": self.next_request}, serialize_message(request))

        made.send_response = send_response
        self.things[number] = (owner, made)

    def do_forget_request(self, number: int, id: int) -> None:
        self.requests[number].pop(id, None)

    def do_respond(self, number: int, id: int, data: bytes = b"") -> None:
        from rclpy.serialization import deserialize_message

        respond, header, response_type = self.requests[number].pop(id)
        respond(deserialize_message(data, response_type), header)

    # -------------------------------------------------------------- the graph

    def look_at_graph(self) -> None:
        node = self.watch
        topics = sorted(node.get_topic_names_and_types())
        names = sorted(
            item for item in node.get_node_names_and_namespaces() if not item[0].startswith(HIDDEN)
        )
        services = []
        for node_name, namespace in names:
            for kind, find in (
                ("server", node.get_service_names_and_types_by_node),
                ("client", node.get_client_names_and_types_by_node),
            ):
                try:
                    found = find(node_name, namespace)
                except Exception:  # noqa: BLE001  # the node has just ended
                    continue
                services += [
                    {"kind": kind, "node": [node_name, namespace], "name": name, "type": type}
                    for name, types in found
                    for type in types
                ]
        # To describe each publisher and subscription costs four times as much as to count them.
        counts = [(node.count_publishers(name), node.count_subscribers(name)) for name, _ in topics]
        seen = (names, topics, counts, services)
        if seen == self.seen:
            return
        self.seen = seen
        endpoints = []
        for name, _ in topics:
            endpoints += [
                describe(item, "publisher", name) for item in node.get_publishers_info_by_topic(name)
            ]
            endpoints += [
                describe(item, "subscription", name) for item in node.get_subscriptions_info_by_topic(name)
            ]
        endpoints = [item for item in endpoints if not item["node"][0].startswith(HIDDEN)]
        self.send({"graph": endpoints + services, "nodes": names})


def reason_of(error: BaseException) -> str:
    return str(error) or type(error).__name__


def find_type(name: str) -> Any:
    package, kind, type_name = name.split("/")
    action, _, part = type_name.rpartition("_")
    inner = ACTION_PARTS.get(part) if kind == "action" else None
    try:
        module = importlib.import_module(f"{package}.{kind}")
        return getattr(getattr(module, action).Impl, inner) if inner else getattr(module, type_name)
    except (ImportError, AttributeError) as error:
        raise LookupError(f"the ROS of this machine has no type {name}: install its package") from error


def make_qos(values: dict[str, Any]) -> Any:
    from rclpy.duration import Duration
    from rclpy.qos import DurabilityPolicy, HistoryPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy

    durations = {
        name: Duration(nanoseconds=values[name])
        for name in ("deadline", "lifespan", "liveliness_lease_duration")
        if values[name] is not None
    }
    return QoSProfile(
        history=HistoryPolicy(values["history"]),
        depth=values["depth"],
        reliability=ReliabilityPolicy(values["reliability"]),
        durability=DurabilityPolicy(values["durability"]),
        liveliness=LivelinessPolicy(values["liveliness"]),
        **durations,
    )


def events_module() -> Any:
    """Return the module with the events of an endpoint, which Humble has under another name."""
    try:
        return importlib.import_module("rclpy.event_handler")
    except ImportError:
        return importlib.import_module("rclpy.qos_event")


def describe(info: Any, kind: str, name: str) -> dict[str, Any]:
    profile = info.qos_profile
    return {
        "kind": kind,
        "node": [info.node_name, info.node_namespace],
        "name": name,
        "type": info.topic_type,
        "hash": str(getattr(info, "topic_type_hash", "")),  # Humble has none
        "gid": bytes(info.endpoint_gid).hex(),
        "qos": {
            "reliability": int(profile.reliability),
            "durability": int(profile.durability),
            "history": int(profile.history),
            "depth": profile.depth,
            "deadline": profile.deadline.nanoseconds,
            "lifespan": profile.lifespan.nanoseconds,
            "liveliness": int(profile.liveliness),
            "lease_duration": profile.liveliness_lease_duration.nanoseconds,
        },
    }


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the other side decides
    # The thread that reads and the executor hand each other work; 5 ms would be most of the time of a call.
    sys.setswitchinterval(1e-4)
    connection = socket.socket(fileno=int(sys.argv[1]))
    try:
        server = Server(connection, int(sys.argv[2]))
    except Exception as error:  # noqa: BLE001  # the other side raises it
        write_frame(connection, {"failed": f"{type(error).__name__}: {error}"})
        sys.exit(1)
    server.run()


if __name__ == "__main__":
    main()
