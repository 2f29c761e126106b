"""``python -m dora.nodes.camera``: the node that ``path: dora-camera`` starts."""

from __future__ import annotations

from dora.nodes.main import run_node


def _run(node_id: str | None) -> int:
    from dora.nodes.camera.run import run

    return run(node_id)


if __name__ == "__main__":
    run_node("dora-camera", "Send the images of a camera, a video file or a test pattern.", _run)
