"""``python -m dora.nodes.lerobot_replay``: the node that ``path: dora-lerobot-replay`` starts."""

from __future__ import annotations

from dora.nodes.main import run_node


def _run(node_id: str | None) -> int:
    from dora.nodes.lerobot_replay.run import run

    return run(node_id)


if __name__ == "__main__":
    run_node("dora-lerobot-replay", "Send an episode of a data set for LeRobot as it was recorded.", _run)
