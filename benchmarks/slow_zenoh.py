"""The two processes of bare Zenoh for `benchmarks.slow_networks`: a robot that sends, a desk that receives.

One session with Zenoh's priorities and a connection for each of them; pictures are dropped where Zenoh's
queue is full, control messages wait.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.dataflows.slow_network.paced import send_paced


def open_session(role: str, address: str, port: int) -> Any:
    """Open a session with two connections; the desk listens."""
    import zenoh

    endpoints = [f"tcp/{address}:{port}?prio=1-3", f"tcp/{address}:{port + 1}?prio=4-7"]
    config = zenoh.Config()
    for key, value in {
        "mode": "peer",
        "listen/endpoints": endpoints if role == "desk" else [],
        "connect/endpoints": endpoints if role == "robot" else [],
        "connect/timeout_ms": -1,
        "connect/exit_on_failure": False,
        "scouting/multicast/enabled": False,
        "scouting/gossip/enabled": False,
        "transport/shared_memory/enabled": False,
        "transport/unicast/max_links": 2,
    }.items():
        config.insert_json5(key, json.dumps(value))
    return zenoh.open(config)


def send(session: Any, sizes: dict[str, int], seconds: float, results: Path) -> None:
    """Send for some seconds, each message with the time at its beginning."""
    import zenoh

    control, congestion = zenoh.Priority, zenoh.CongestionControl
    publishers = {
        "control": session.declare_publisher(
            "control", congestion_control=congestion.BLOCK, priority=control.REAL_TIME, express=True
        ),
        "picture": session.declare_publisher(
            "picture", congestion_control=congestion.DROP, priority=control.BACKGROUND, express=True
        ),
    }
    deadline = time.monotonic() + 30
    while not all(publisher.matching_status.matching for publisher in publishers.values()):
        if time.monotonic() > deadline:
            raise TimeoutError("nobody subscribes")
        time.sleep(0.01)

    def send_one(name: str, rest: bytes, now_ns: int) -> None:
        publishers[name].put(now_ns.to_bytes(8, "little") + rest)

    senders = {name: partial(send_one, name, bytes(size - 8)) for name, size in sizes.items()}
    send_paced(seconds, senders, results)
    time.sleep(2.0)  # for what is still on the way


def receive(session: Any, results: Path) -> None:
    """Note when each message was sent and when it came, until the standard input ends."""
    arrivals_ns: dict[str, list[tuple[int, int]]] = {"control": [], "picture": []}

    def note(sample: Any) -> None:
        sent_ns = int.from_bytes(sample.payload.to_bytes()[:8], "little")
        arrivals_ns[str(sample.key_expr)].append((sent_ns, time.monotonic_ns()))

    subscribers = [session.declare_subscriber(name, note) for name in arrivals_ns]
    sys.stdin.read()
    for subscriber in subscribers:
        subscriber.undeclare()
    (results / "desk.json").write_text(json.dumps(arrivals_ns))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the two processes; return 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slow_zenoh", description=__doc__)
    parser.add_argument("role", choices=("robot", "desk"))
    parser.add_argument("address", help="on which the desk listens")
    parser.add_argument("port", type=int)
    parser.add_argument("size", type=int, help="of a picture, in bytes")
    parser.add_argument("seconds", type=float)
    parser.add_argument("results", type=Path, help="the folder for the result file")
    options = parser.parse_args(arguments)
    session = open_session(options.role, options.address, options.port)
    if options.role == "robot":
        send(session, {"control": 64, "picture": options.size}, options.seconds, options.results)
    else:
        receive(session, options.results)
    session.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
