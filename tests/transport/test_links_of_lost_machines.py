"""Links with a machine that is lost, and comes back: what is refused, skipped, and read from files."""

from __future__ import annotations

from pathlib import Path

from receiving_end import OUTPUT, ReceivingEnd

from dora.transport.board import FENCE, SENT, Board
from dora.transport.network.endpoints import EndpointsFile, LinkEndpoints, write_endpoints
from dora.transport.network.protocol import ACK
from dora.transport.network.window import SendWindow


def window_of(link: ReceivingEnd) -> int:
    """Return the send window that was acknowledged last."""
    return int(ACK.unpack(link.acks[-1])[2])


def test_messages_of_a_lost_machine_that_come_late_are_refused(tmp_path: Path) -> None:
    board = Board.create(str(tmp_path / "board"), 8)
    link = ReceivingEnd(board)
    link.probe(5)
    assert window_of(link) == 5
    assert link.takes(5, 1, 1)
    board.set(OUTPUT, FENCE, 1)
    assert not link.takes(5, 2, 2)
    answers = len(link.acks)
    link.probe(5)
    assert len(link.acks) == answers, "a late probe gets no answer"
    assert not link.takes(5, 3, 3)
    assert board.get(OUTPUT, SENT) == 1
    link.probe(6, last_sequence=1)  # of its next part
    assert window_of(link) == 6
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
