"""The process that has rclpy, and the frames to and from it."""

from __future__ import annotations

import itertools
import logging
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final

from dora.errors import ConnectError, TransportError
from dora.ros2.engine import end_future
from dora.ros2.rclpy.find import PYTHON_VARIABLE, find_python
from dora.ros2.rclpy.server import read_frame, write_frame

_log = logging.getLogger("dora.ros2")
_START_TIMEOUT: Final = 60.0  # seconds; a board loads rclpy from a card
_CALL_TIMEOUT: Final = 30.0  # seconds; then the caller gets an error, and the process goes on
_SEND_TIMEOUT: Final = 30  # seconds in which the process reads nothing; it is stuck, or in a debugger
_END_TIMEOUT: Final = 3.0  # seconds; more than the process needs at most, see `END_TIMEOUT` of its server

Handler = Callable[[dict[str, Any], bytes], None]


class RclpyProcess:
    """Starts the process, asks it, and hands on what it says.

    A thread reads the frames: an answer goes to `ask`, everything else to ``on_frame``. When either side
    ends, also by SIGKILL, the socket does, and so the other side.
    """

    def __init__(self, domain_id: int, on_frame: Handler, on_end: Callable[[int], None]) -> None:
        """``on_end`` gets the id of the process.

        Raises `ConnectError` if there is no rclpy, or it cannot start.
        """
        python = find_python()
        if python is None:
            raise ConnectError(
                "no rclpy is here: source the setup file of a ROS installation, or name the Python that "
                f"has rclpy in ${PYTHON_VARIABLE}"
            )
        ours, theirs = socket.socketpair()
        # By its path: the package `dora` is not in that Python.
        script = os.path.join(os.path.dirname(__file__), "server.py")
        number = theirs.fileno()
        try:
            self._process = subprocess.Popen(
                [python, script, str(number), str(domain_id)], stdin=subprocess.DEVNULL, pass_fds=[number]
            )
        except OSError as error:
            ours.close()
            raise ConnectError(f"{python} cannot be started for rclpy: {error.strerror}") from error
        finally:
            theirs.close()
        self._socket = ours
        # Any thread sends, and a frame may go out in several calls: two frames at once would mix.
        self._sending = threading.Lock()
        self._calls: dict[int, Future[Any]] = {}
        self._numbers = itertools.count(1)
        self._on_frame = on_frame
        self._on_end = on_end
        self.ended = False
        self._thread = threading.Thread(target=self._run, name="dora-ros2-rclpy", daemon=True)
        self.rmw = self._await_start(python)
        self._thread.start()  # after that: both read from the socket

    @property
    def pid(self) -> int:
        """The id of the process, also after its end."""
        return self._process.pid

    def _await_start(self, python: str) -> str:
        self._socket.settimeout(_START_TIMEOUT)
        try:
            header, _ = read_frame(self._socket)
        except (EOFError, OSError) as error:
            self.close()
            raise ConnectError(f"{python} ended, or said nothing, when it started rclpy") from error
        if "failed" in header:
            self.close()
            raise ConnectError(f"the rclpy of {python} cannot start: {header['failed']}")
        self._socket.settimeout(None)
        # A timeout of Python would also end the thread that reads.
        timeout = struct.pack("@ll", _SEND_TIMEOUT, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
        return str(header["rmw"])

    def number(self) -> int:
        """Return a number for a node, publisher or other; each time another one."""
        return next(self._numbers)

    def send(self, header: dict[str, Any], data: Any = b"") -> None:
        """Send without waiting for an answer; raises `TransportError` if the process has ended.

        A process that does not read is killed: half a frame has gone out, so nothing can follow it.
        """
        with self._sending:
            try:
                write_frame(self._socket, header, data)
            except BlockingIOError as error:
                self._process.kill()
                raise TransportError(
                    f"the process that has rclpy has read nothing for {_SEND_TIMEOUT} s, so it was killed"
                ) from error
            except OSError as error:
                raise TransportError("the process that has rclpy has ended") from error

    def ask(self, do: str, **values: Any) -> Any:
        """Ask for something, and return the answer; raises `TransportError` with the reason of rclpy."""
        call = next(self._numbers)
        future: Future[Any] = Future()
        self._calls[call] = future  # before the question: the answer may come at once
        try:
            self.send({"do": do, "call": call, **values})
            if self.ended:  # `_run` may have ended all futures before this one was among them
                raise TransportError("the process that has rclpy has ended")
            return future.result(_CALL_TIMEOUT)
        except TimeoutError as error:
            raise TransportError(f"rclpy has not answered within {_CALL_TIMEOUT:g} s") from error
        finally:
            self._calls.pop(call, None)

    def _run(self) -> None:
        try:
            while True:
                header, data = read_frame(self._socket)
                if "reply" in header:
                    self._on_reply(header)
                else:
                    try:
                        self._on_frame(header, data)
                    except Exception:  # noqa: BLE001  # one frame, and the next one may be readable
                        _log.exception("a message of the process that has rclpy cannot be read")
        except (EOFError, OSError):
            pass  # the process has ended
        self.ended = True  # before the futures end: an `ask` that comes after them looks at it
        for future in list(self._calls.values()):
            end_future(future, error=TransportError("the process that has rclpy has ended"))
        self._on_end(self.pid)

    def _on_reply(self, header: dict[str, Any]) -> None:
        if header["reply"] is None:  # nobody waits
            _log.error("rclpy cannot %s: %s", header["do"], header["error"])
            return
        future = self._calls.get(header["reply"])
        if future is None:
            return
        if "error" in header:
            end_future(future, error=TransportError(header["error"]))
        else:
            end_future(future, header["result"])

    def leave(self) -> None:
        """Close the socket in a forked child: it stays open for the parent, whose end it still tells."""
        self._socket.close()

    def finish(self) -> None:
        """Send nothing more. The process does what it has been sent, and ends; `close` waits for that."""
        try:
            self._socket.shutdown(socket.SHUT_WR)  # which also ends a `send` that waits
        except OSError:
            pass  # it has ended

    def close(self) -> None:
        """End the process: after `_END_TIMEOUT` it is killed."""
        self.finish()
        try:
            self._process.wait(_END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(_END_TIMEOUT)  # it reads what the process has sent before its end
        self._socket.close()  # last: the thread reads from it
