"""``python -m dora.nodes.lerobot_recorder``: the node that ``path: dora-lerobot-recorder`` starts."""

from __future__ import annotations

from dora.nodes.main import run_node


def _run(node_id: str | None) -> int:
    from dora.nodes.lerobot_recorder.run import run

    return run(node_id)


if __name__ == "__main__":
    run_node(
        "dora-lerobot-recorder",
        "Record the inputs of a node as a data set for LeRobot.",
        _run,
    )
