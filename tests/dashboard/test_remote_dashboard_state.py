"""The states of several machines are merged into one for the page."""

from __future__ import annotations

from typing import Any

from dora.cluster.dashboard.remote import merged


def state(*nodes: str, trouble: str = "", **links: str) -> dict[str, Any]:
    return {
        "nodes": [{"id": node, "machine": ""} for node in nodes],
        "links": [{"source": source, "target": f"{target}/in"} for target, source in links.items()],
        "trouble": trouble,
    }


def test_each_machine_counts_for_its_nodes_and_the_links_to_them() -> None:
    both = state("camera", "plan", plan="camera/image", camera="plan/command")
    found = merged(
        {"arm": {**both, "trouble": "too many look"}, "base": both},
        {"camera": "arm", "plan": "base"},
        {"desk": "machine `desk` does not answer"},
    )
    assert found == {
        "nodes": [{"id": "camera", "machine": "arm"}, {"id": "plan", "machine": "base"}],
        "links": [
            {"source": "plan/command", "target": "camera/in"},
            {"source": "camera/image", "target": "plan/in"},
        ],
        "trouble": "too many look; machine `desk` does not answer",
    }


def test_a_node_that_was_added_later_is_on_the_machine_that_reports_it() -> None:
    assert merged({"arm": state("new", new="camera/image")}, {}, {}) == {
        "nodes": [{"id": "new", "machine": "arm"}],
        "links": [{"source": "camera/image", "target": "new/in"}],
        "trouble": "",
    }
