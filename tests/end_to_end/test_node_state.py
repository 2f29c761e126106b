"""What a node leaves for its next process."""

from __future__ import annotations

import pytest
from flow import Flow

pytestmark = pytest.mark.processes


@pytest.mark.both_ways
def test_state_outlives_a_crash_and_is_each_nodes_own(flow: Flow) -> None:
    script = """
        import os, sys
        from dora import Node
        node = Node()
        state = node.load_state()
        print(node.restart_count(), None if state is None else (len(state), state[:3]))
        if node.restart_count() < 2:
            node.save_state(b"not this")
            node.save_state(memoryview(node.id.encode() * 1_000_000))
            os._exit(3)
    """
    for name in ("one", "two"):
        flow.node(name, script, restart_policy="on-failure")
    flow.run()
    for name in ("one", "two"):
        lines = [line for line in flow.printed(name) if "restart" not in line]
        kept = f"(3000000, b'{name}')"
        assert lines == ["0 None", f"1 {kept}", f"2 {kept}"]


def test_a_state_that_cannot_be_saved_is_an_error(flow: Flow) -> None:
    flow.node(
        "node",
        """
        from dora import Node, SendError
        node = Node()
        node._session.state._path = "/dev/null/state"
        try:
            node.save_state(b"state")
        except SendError as error:
            print(error)
        """,
    )
    flow.run()
    assert flow.printed("node") == ["the state of node `node` cannot be saved: Not a directory"]
