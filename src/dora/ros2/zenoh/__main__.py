"""``python -m dora.ros2.zenoh [ENDPOINT]``: a router for ROS nodes over Zenoh, until Ctrl-C.

It does the work of ``rmw_zenohd`` where no ROS is installed. ENDPOINT is `tcp/[::]:7447` by default.
"""

from __future__ import annotations

import argparse
import signal
import sys

from dora.errors import ConnectError
from dora.ros2.zenoh.session import ROUTER_ENDPOINT, open_router


def main() -> int:
    """Run the router; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m dora.ros2.zenoh", description="A router for ROS nodes over Zenoh, until Ctrl-C."
    )
    parser.add_argument("endpoint", nargs="?", default=ROUTER_ENDPOINT, help=f"[{ROUTER_ENDPOINT}]")
    endpoint: str = parser.parse_args().endpoint
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # before the threads of Zenoh, which then have it, too
    try:
        router = open_router(endpoint)
    except ConnectError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"listening on {endpoint}; Ctrl-C ends it", flush=True)
    signal.sigwait(ends)
    router.close()  # type: ignore[no-untyped-call]  # a gap in its stubs
    return 0


if __name__ == "__main__":
    sys.exit(main())
