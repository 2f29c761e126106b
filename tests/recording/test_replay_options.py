"""The options of a run reach the dataflow that a replay runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import run_command
from option_values import Caught, catch_runs, named, sample
from recorded_files import write_recording

from dora.daemon.options import ForegroundRunOptions, LocalRunOptions, Option, options_of

FLOW = {
    "nodes": [
        {"id": "camera", "path": "camera.py", "outputs": ["image"]},
        {"id": "viewer", "path": "viewer.py", "inputs": {"image": "camera/image"}},
    ]
}
REFUSED = ("exit_when_nodes_finish", "black_box")


@named(tuple(option for option in options_of(ForegroundRunOptions) if option.name not in REFUSED))
def test_a_replay_runs_with_it(option: Option, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catch_runs(monkeypatch)
    write_recording(tmp_path / "a.mcap", [("camera/image", 0.0, b"1")], dataflow=FLOW)
    (tmp_path / "viewer.py").touch()
    arguments, value = sample(option)
    with pytest.raises(Caught) as caught:
        run_command("replay", "a.mcap", "--free", *arguments, folder=tmp_path)
    assert isinstance(caught.value.options, LocalRunOptions)
    assert getattr(caught.value.options, option.name) == value
