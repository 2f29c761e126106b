"""The dataflows that run on this machine for this user, and a connection to one of them."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator
from typing import Final

from dora._ownership import connect_own
from dora._paths import SOCKET_NAME, is_run_name, runtime_root
from dora.errors import ConnectError, DoraError
from dora.wire.daemon_protocol import (
    Answer,
    DataflowEnded,
    DescribeDataflow,
    Description,
    Rejected,
    Request,
    answer_timeout,
    decode_answer,
)
from dora.wire.decoders import DecodeError
from dora.wire.framing import FrameBuffer, FrameError, encode_frame

# Seconds that a daemon may take to answer. It answers most requests in one turn of its loop. One that is
# stopped by a signal must not hold up a command that looks at all dataflows.
_PATIENCE: Final = 5.0
_ENDED: Final = (ConnectionRefusedError, FileNotFoundError)  # nobody listens


class DataflowGone(ConnectError):
    """The dataflow has ended, or is just ending."""


class DaemonClient:
    """A connection to the daemon of a running dataflow; ``description`` says which one.

    ``with`` closes it.
    """

    def __init__(self, path: str) -> None:
        """Connect to a socket; raises `ConnectError`, `UnsafeFile` if it is not this user's."""
        self.path = path
        self.run_dir = os.path.dirname(path)
        self._frames = FrameBuffer()
        self._may_time_out = False
        self.ended: DataflowEnded | None = None  # sent to recorders when the dataflow ends
        try:
            self._socket = connect_own(path, _PATIENCE)
        except OSError as error:
            kind = DataflowGone if isinstance(error, _ENDED) else ConnectError
            raise kind(f"the daemon cannot be reached at {path}: {error}") from error
        try:
            description = self.ask(DescribeDataflow())
        except DoraError:
            self.close()
            raise
        if not isinstance(description, Description):
            self.close()
            raise ConnectError(f"the server at {path} is not a daemon of this version of dora")
        self.description = description

    def set_patience(self, seconds: float | None) -> None:
        """Make `ask` raise ``TimeoutError`` after this time (None: never), instead of `ConnectError`.

        For requests that the daemon cannot answer by itself. After a timeout the connection is unusable.
        """
        self._socket.settimeout(seconds)
        self._may_time_out = True

    def ask(self, request: Request) -> Answer:
        """Send a request and wait for its answer; without a limit if it waits for the end of a node.

        Raises `DataflowGone` if the daemon ends, `ConnectError` if it does not answer or is of another
        version, `DoraError` with its reason if it declines.
        """
        if answer_timeout(request) is None:
            self.set_patience(None)
        try:
            self._socket.sendall(encode_frame(request))
            answer = self._receive()
        except OSError as error:
            if self._may_time_out and isinstance(error, TimeoutError):
                raise
            if isinstance(error, TimeoutError):
                why = "it may be suspended, and then `fg` in its terminal continues it"
                raise ConnectError(f"the daemon at {self.path} does not answer; {why}") from error
            raise DataflowGone(f"the daemon at {self.path} does not answer: {error}") from error
        except (FrameError, DecodeError) as error:
            raise ConnectError(
                f"the daemon at {self.path} is of another version of dora; use the `dora` that started it"
            ) from error
        if isinstance(answer, Rejected):
            raise DoraError(answer.reason)
        return answer

    def wait_for_end(self) -> None:
        """Wait until the dataflow has ended, however long that takes."""
        self.set_patience(None)
        try:
            while True:
                self._receive()
        except (ConnectError, OSError):
            pass  # the end of the connection is the end of the dataflow

    def look_for_end(self) -> bool:
        """Return whether the dataflow has ended, without waiting."""
        while self.ended is None and select.select([self], (), (), 0)[0]:
            try:
                data = self._socket.recv(1 << 16)
            except OSError:
                data = b""
            if not data:
                self.ended = DataflowEnded([])
            self._frames.feed(data)
            try:
                for body in self._frames:
                    self._note_end(decode_answer(body))
            except (FrameError, DecodeError):  # no daemon of this version; nothing else will come
                self.ended = DataflowEnded([])
        return self.ended is not None

    def _note_end(self, answer: Answer) -> bool:
        if isinstance(answer, DataflowEnded):
            self.ended = answer
            return True
        return False

    def _receive(self) -> Answer:
        while True:
            for body in self._frames:
                answer = decode_answer(body)
                if not self._note_end(answer):
                    return answer
            data = self._socket.recv(1 << 16)
            if not data:
                raise DataflowGone("the dataflow has just ended")
            self._frames.feed(data)

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when the dataflow has ended."""
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> DaemonClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def running(on_silent: Callable[[str], None] = lambda _: None) -> Iterator[DaemonClient]:
    """Yield a connection to each running dataflow of this user; oldest first.

    One whose daemon does not answer, or is of another version, is left out, and ``on_silent`` gets the
    reason. Raises `UnsafeFile` if another user could have made one of them.
    """
    root = runtime_root()
    try:
        names = os.listdir(root)
    except FileNotFoundError:
        return
    found: list[DaemonClient] = []
    for name in filter(is_run_name, names):
        try:
            found.append(DaemonClient(f"{root}/{name}/{SOCKET_NAME}"))
        except DataflowGone:
            continue
        except ConnectError as error:
            on_silent(str(error))
    # The ids are UUIDs of version 7: they sort by the time of the start.
    yield from sorted(found, key=lambda run: run.description.dataflow_id)


def name_of(description: Description) -> str:
    """Return the name of a running dataflow: the one given, or its file's without the ending."""
    return description.name or os.path.splitext(os.path.basename(description.file or ""))[0]


def fits(description: Description, wanted: str) -> bool:
    """Return whether a text names a dataflow: by its UUID, the beginning of it, its name or its file."""
    return (
        description.dataflow_id.startswith(wanted.lower())
        or name_of(description) == wanted
        or (description.file is not None and os.path.abspath(wanted) == description.file)
    )
