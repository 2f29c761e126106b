"""Links with a machine that is lost, and comes back: what is refused, skipped, and read from files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dora.transport.board import FENCE, SENT, Board
from dora.transport.network.endpoints import EndpointsFile, LinkEndpoints, write_endpoints
from dora.transport.network.protocol import ACK, DATA_HEADER, PROBE
from dora.transport.network.receiver import RemoteReceiver
from dora.transport.network.window import SendWindow
from dora.wire.node_config import InputConfig

OUTPUT = 2  # the line of the source on the board


class Payload(bytes):
    def to_bytes(self) -> bytes:
        return bytes(self)


class Link:
    """The receiving end of a link, without a network."""

    def __init__(self, board: Board) -> None:
        self.acks: list[bytes] = []
        session: Any = SimpleNamespace(
            dataflow_id="flow",
            node_id="plot",
            poll=lambda: None,
            put=lambda _, data: self.acks.append(data),
            on_piggyback_ack=None,
        )
        item = InputConfig("image", "link", "camera/image", slot=1, output_slot=OUTPUT)
        self.receiver = RemoteReceiver(session, item, lambda: None, board, 3)

    def probe(self, window: int, last_sequence: int = 0) -> int:
        """Announce a send window; return the one that the receiver has then."""
        self.receiver.on_probe(PROBE.pack(window, 0, last_sequence, last_sequence, 0))
        return int(ACK.unpack(self.acks[-1])[2]) if self.acks else 0

    def takes(self, window: int, number: int, sequence: int) -> bool:
        header = DATA_HEADER.pack(window, number, sequence, 0, 0, 1, 0, 0, 0)
        return self.receiver.on_message(Payload(b"x"), header)  # type: ignore[arg-type]


def test_messages_of_a_lost_machine_that_come_late_are_refused(tmp_path: Path) -> None:
    board = Board.create(str(tmp_path / "board"), 8)
    link = Link(board)
    assert link.probe(5) == 5
    assert link.takes(5, 1, 1)
    board.set(OUTPUT, FENCE, 1)
    assert not link.takes(5, 2, 2)
    assert link.probe(5) == 5  # the last answer: a late probe gets none
    assert not link.takes(5, 3, 3)
    assert board.get(OUTPUT, SENT) == 1
    assert link.probe(6, last_sequence=1) == 6  # of its next part
    assert link.takes(6, 1, 2)
    board.close()


def test_a_window_begins_behind_messages_that_were_skipped() -> None:
    window = SendWindow(None)
    window.open = True
    window.put(1, None, 8)
    assert window.next() is not None
    window.acknowledge(1, 0.0)
    window.skip_to(500)
    window.restart()
    assert (window.last_sequence, window.is_idle) == (500, True)


def test_endpoints_are_read_when_they_have_changed(tmp_path: Path) -> None:
    path = str(tmp_path / "endpoints")
    file = EndpointsFile(path)
    assert file.poll() is None
    for address in ("10.0.0.1", "10.0.0.2"):
        endpoints = LinkEndpoints(address, {"a": f"tcp/{address}:1"}, {})
        write_endpoints(path, endpoints)
        assert file.poll() == endpoints
        assert file.poll() is None
    Path(path).write_text("{")
    assert file.poll() is None
