"""Modules: what they become, and what is said of those that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import dora.dataflow
from dora.dataflow.model import Dataflow
from dora.errors import DataflowError, Problem


class Project:
    """A folder with a dataflow and modules."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, **files: str) -> Project:
        """Write files; ``mods__a`` is mods/a.yml."""
        for name, text in files.items():
            path = self.folder / (name.replace("__", "/") + ".yml")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return self

    def load(self) -> Dataflow:
        return dora.dataflow.load(self.folder / "flow.yml", environ={"HOME": "/h"})

    def nodes(self) -> dict[str, Any]:
        """Return the written-out nodes by id."""
        return {node["id"]: node for node in self.load().descriptor["nodes"]}

    def problems(self) -> list[Problem]:
        with pytest.raises(DataflowError) as caught:
            dora.dataflow.load("flow.yml")
        return list(caught.value.problems)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


FLOW = """nodes:
  - id: camera
    path: camera.py
    outputs: [image]
  - id: pipe
    module: mods/detect.yml
    inputs: {frames: camera/image}
  - id: plot
    path: plot.py
    inputs: {boxes: pipe/boxes}
"""

DETECT = """module:
  name: detect
  inputs: [frames]
  inputs_optional: [config]
  outputs: [boxes]
nodes:
  - id: scale
    path: scale.py
    inputs: {image: _mod/frames, config: _mod/config}
    outputs: [small]
  - id: find
    path: find.py
    inputs: {image: scale/small}
    outputs: [boxes]
"""


def test_a_module_becomes_its_nodes(project: Project) -> None:
    project.write(flow=FLOW, mods__detect=DETECT)
    assert project.load().descriptor == {
        "nodes": [
            {"id": "camera", "path": "camera.py", "outputs": ["image"]},
            {
                "id": "pipe.scale",
                "path": "mods/scale.py",
                "inputs": {"image": "camera/image"},
                "outputs": ["small"],
            },
            {
                "id": "pipe.find",
                "path": "mods/find.py",
                "inputs": {"image": "pipe.scale/small"},
                "outputs": ["boxes"],
            },
            {"id": "plot", "path": "plot.py", "inputs": {"boxes": "pipe.find/boxes"}},
        ]
    }


def test_the_model_knows_where_a_node_comes_from(project: Project) -> None:
    nodes = project.write(flow=FLOW, mods__detect=DETECT).load().nodes
    assert [node.module for node in nodes] == ["", "pipe", "pipe", ""]
    assert nodes[1].place == f"{project.folder}/mods/detect.yml:7:5"


def test_a_module_may_be_used_twice(project: Project) -> None:
    more = "  - {id: again, module: mods/detect.yml, inputs: {frames: pipe/boxes, config: again/boxes}}\n"
    project.write(flow=FLOW + more, mods__detect=DETECT)
    assert project.nodes()["again.scale"]["inputs"] == {
        "image": "pipe.find/boxes",
        "config": "again.find/boxes",
    }


def test_options_of_an_input_default_to_those_of_the_port(project: Project) -> None:
    flow = FLOW.replace("camera/image}", "{source: camera/image, queue_size: 7, input_timeout: 3}}")
    inner = DETECT.replace("_mod/frames,", "{source: _mod/frames, queue_size: 1},")
    (node,) = [n for n in project.write(flow=flow, mods__detect=inner).load().nodes if n.id == "pipe.scale"]
    assert (node.inputs[0].queue_size, node.inputs[0].input_timeout) == (1, 3.0)


def test_timers_and_logs_may_be_connected_to_ports(project: Project) -> None:
    flow = FLOW.replace("camera/image}", "dora/timer/millis/10}")
    inner = DETECT.replace("scale/small", "dora/logs/warn/scale")
    nodes = project.write(flow=flow, mods__detect=inner).nodes()
    assert nodes["pipe.scale"]["inputs"] == {"image": "dora/timer/millis/10"}
    assert nodes["pipe.find"]["inputs"] == {"image": "dora/logs/warn/pipe.scale"}
    inner = DETECT.replace("scale/small", "dora/logs/warn/camera")  # a node outside of the module
    nodes = project.write(mods__detect=inner).nodes()
    assert nodes["pipe.find"]["inputs"] == {"image": "dora/logs/warn/camera"}


OUTER = """module: {name: outer, inputs: [frames], outputs: [boxes, tracks]}
build: make outer
nodes:
  - {id: inner, module: ../detect.yml, inputs: {frames: _mod/frames}, params: {size: $PARAM_SIZE}}
  - id: tracker
    operators:
      - {id: track, python: {source: track.py}, inputs: {boxes: inner/boxes}, outputs: [tracks]}
      - {id: show, python: show.py, inputs: {tracks: tracker/track/tracks}, build: make show}
"""


def test_modules_may_use_modules(project: Project) -> None:
    flow = FLOW.replace("mods/detect.yml", "mods/outer/outer.yml\n    params: {Size: 5$, name: a b}")
    flow += "  - {id: end, path: end.py, inputs: {tracks: pipe/tracks}}\n"
    inner = DETECT.replace("path: find.py", "path: find.py\n    args: --size $PARAM_SIZE $PARAM_NAME")
    nodes = project.write(flow=flow, mods__outer__outer=OUTER, mods__detect=inner).nodes()
    assert list(nodes) == ["camera", "pipe.inner.scale", "pipe.inner.find", "pipe.tracker", "plot", "end"]
    assert nodes["pipe.inner.scale"]["build"] == "make outer"
    track, show = nodes["pipe.tracker"]["operators"]
    assert track["python"] == {"source": "mods/outer/track.py"}
    assert track["inputs"] == {"boxes": "pipe.inner.find/boxes"}
    assert show["inputs"] == {"tracks": "pipe.tracker/track/tracks"}
    assert show["build"] == "make outer\nmake show"
    assert nodes["end"]["inputs"] == {"tracks": "pipe.tracker/track/tracks"}
    # Parameters of the outer module reach the inner nodes as variables, but not their arguments.
    found = project.load().node("pipe.inner.find")
    assert found.env == {"PARAM_SIZE": "5$", "PARAM_NAME": "a b"}
    assert found.args == ("--size", "5$", "$PARAM_NAME")


def test_a_single_operator_of_the_dataflow_may_use_a_module(project: Project) -> None:
    flow = FLOW.replace(
        "path: plot.py\n    inputs: {boxes", "operator:\n      python: p.py\n      inputs: {b"
    )
    assert project.write(flow=flow, mods__detect=DETECT).nodes()["plot"]["operator"] == {
        "python": "p.py",
        "inputs": {"b": "pipe.find/boxes"},
    }


def test_parameters(project: Project) -> None:
    args = 'args: ["$PARAM_SPEED x", "${_param.speed}", "$PARAM_SPEEDY", "${_param.Speed}", 5]'
    inner = DETECT.replace("path: scale.py", f"path: scale.py\n    {args}\n    env: {{PARAM_SPEED: mine}}")
    flow = FLOW.replace("inputs: {frames", "params: {speed: 2.50, on: true}\n    inputs: {frames")
    node = project.write(flow=flow, mods__detect=inner).load().node("pipe.scale")
    assert node.args == ("2.50 x", "2.50", "$PARAM_SPEEDY", "${_param.Speed}", "5")
    assert node.env == {"PARAM_SPEED": "2.50", "PARAM_ON": "true"}


def test_preload_of_the_node_that_uses_a_module(project: Project) -> None:
    flow = FLOW.replace("inputs: {frames", "preload: false\n    inputs: {frames")
    inner = DETECT.replace("path: scale.py", "path: scale.py\n    preload: [scipy]")
    dataflow = project.write(flow=flow, mods__detect=inner).load()
    (scipy,) = dataflow.node("pipe.scale").preload or ()
    assert (scipy.name, dataflow.node("pipe.find").preload) == ("scipy", None)
    line = inner.partition("[scipy]")[0].count("\n") + 1
    assert scipy.place == f"{project.folder}/mods/detect.yml:{line}:15"


def test_parameters_of_the_nearest_module_win(project: Project) -> None:
    project.write(
        flow="nodes: [{id: a, module: a.yml, params: {size: 1, name: x}}]\n",
        a="module: {name: a}\nnodes: [{id: b, module: b.yml, params: {size: 2}}]\n",
        b="module: {name: b}\nnodes: [{id: c, path: c.py}]\n",
    )
    assert project.load().node("a.b.c").env == {"PARAM_SIZE": "2", "PARAM_NAME": "x"}


def test_the_environment_of_an_outer_module_reaches_the_inner_ones(project: Project) -> None:
    project.write(
        flow="nodes: [{id: a, module: a.yml, env: {A: outer, B: outer}}]\n",
        a="module: {name: a}\nnodes: [{id: b, module: b.yml, env: {B: inner}}]\n",
        b="module: {name: b}\nnodes: [{id: c, path: c.py}]\n",
    )
    assert project.load().node("a.b.c").env == {"A": "outer", "B": "inner"}


def test_commands_of_the_outer_module_run_before_those_of_the_inner_one(project: Project) -> None:
    project.write(
        flow="nodes: [{id: a, module: a.yml}]\n",
        a="module: {name: a}\nbuild: make a\nnodes: [{id: b, module: b.yml}]\n",
        b="module: {name: b}\nbuild: make b\nnodes: [{id: c, path: c.py, build: [make c, make d]}]\n",
    )
    assert project.nodes()["a.b.c"]["build"] == "make a\nmake b\nmake c\nmake d"


@pytest.mark.parametrize(
    ("inner", "node", "found"),
    [
        ("{machine: m2}", "{machine: m3}", "m3"),
        ("{machine: m2}", "null", "m2"),
        ("null", "null", "m1"),
    ],
)
def test_the_innermost_deploy_of_nested_modules_counts(
    project: Project, inner: str, node: str, found: str
) -> None:
    project.write(
        flow="nodes: [{id: a, module: a.yml, deploy: {machine: m1}}]\n",
        a=f"module: {{name: a}}\nnodes: [{{id: b, module: b.yml, deploy: {inner}}}]\n",
        b=f"module: {{name: b}}\nnodes: [{{id: c, path: c.py, deploy: {node}}}]\n",
    )
    assert project.nodes()["a.b.c"]["deploy"] == {"machine": found}


def test_environment_of_the_node_that_uses_a_module(project: Project) -> None:
    flow = FLOW.replace("inputs: {frames", "env: {A: $HOME, B: outer}\n    inputs: {frames")
    inner = DETECT.replace("path: scale.py", "path: scale.py\n    env: {B: inner}")
    dataflow = project.write(flow=flow, mods__detect=inner).load()
    assert dataflow.node("pipe.scale").env == {"A": "/h", "B": "inner"}
    assert dataflow.node("pipe.find").env == {"A": "/h", "B": "outer"}


@pytest.mark.parametrize(
    ("written", "becomes"),
    [
        ("a.py", "mods/a.py"),
        ("./a.py", "mods/a.py"),
        ("../b.py", "b.py"),
        ("bin/driver", "mods/bin/driver"),
        ("../driver", "driver"),  # a command
        ("../there", "./there"),
        ("opencv-plot", "opencv-plot"),
        ("here", "mods/here"),
        ("/abs/a.py", "/abs/a.py"),
        ("~/a.py", "~/a.py"),
        ("$HOME/a.py", "$HOME/a.py"),
        ("dynamic", "dynamic"),
    ],
)
def test_paths_are_relative_to_the_file_of_the_module(project: Project, written: str, becomes: str) -> None:
    project.write(flow=FLOW, mods__detect=DETECT.replace("scale.py", written))
    (project.folder / "mods" / "here").touch()
    (project.folder / "there").touch()
    assert project.nodes()["pipe.scale"]["path"] == becomes


def test_a_module_beside_the_dataflow_keeps_its_paths(project: Project) -> None:
    project.write(flow=FLOW.replace("mods/detect", "detect"), detect=DETECT)
    assert project.nodes()["pipe.scale"]["path"] == "scale.py"


def test_a_node_inside_a_module_can_be_named_from_outside(project: Project) -> None:
    """Published dataflows do, where two nodes of a module have an output of the same name."""
    flow = FLOW.replace("{boxes: pipe/boxes}", "{boxes: pipe.find/boxes, small: pipe.scale/small}")
    nodes = project.write(flow=flow, mods__detect=DETECT).nodes()
    assert nodes["plot"]["inputs"] == {"boxes": "pipe.find/boxes", "small": "pipe.scale/small"}


def test_a_node_of_an_inner_module_can_be_named_from_the_outer_one(project: Project) -> None:
    outer = OUTER.replace("inner/boxes", "inner.scale/small").replace("boxes, tracks", "tracks")
    project.write(flow=FLOW.replace("mods/detect", "mods/outer/outer").replace("pipe/boxes", "pipe/tracks"))
    project.write(mods__outer__outer=outer, mods__detect=DETECT)
    nodes = project.nodes()
    assert nodes["pipe.tracker"]["operators"][0]["inputs"] == {"boxes": "pipe.inner.scale/small"}


def test_nodes_of_the_dataflow_can_be_reached_from_a_module(project: Project) -> None:
    """A bad habit, but published modules have it."""
    project.write(flow=FLOW, mods__detect=DETECT.replace("scale/small", "camera/image"))
    assert project.nodes()["pipe.find"]["inputs"] == {"image": "camera/image"}


def test_a_module_beside_a_module_is_found(project: Project) -> None:
    inner = "module: {name: m}\nnodes: [{id: x, path: x.py, inputs: {i: pipe/boxes}}]"
    project.write(flow=FLOW + "  - {id: m, module: m.yml}\n", mods__detect=DETECT, m=inner)
    assert project.nodes()["m.x"]["inputs"] == {"i": "pipe.find/boxes"}
    (problem,) = project.write(m=inner.replace("pipe/boxes", "pipe/bxs")).problems()
    assert (problem.file, problem.line) == ("m.yml", 2)
    assert "there is no node `pipe`, which the input `i` of node `x` refers to" in problem.message


def test_missing_files_of_a_module_are_shown_where_they_are_named(project: Project) -> None:
    again = "  - {id: again, module: mods/detect.yml, inputs: {frames: camera/image}}\n"
    project.write(flow=FLOW + again, mods__detect=DETECT)
    for name in ("camera.py", "plot.py", "mods/scle.py", "mods/find.py"):
        (project.folder / name).touch()
    (problem,) = dora.dataflow.missing_files(dora.dataflow.load("flow.yml"))
    assert str(problem) == (
        f"mods/detect.yml:8:11: error: there is no file `{project.folder}/mods/scale.py`, "
        "which the node `scale` runs\n"
        "  8 |     path: scale.py\n"
        "    |           ^^^^^^^^\n"
        "    help: did you mean `scle.py`?\n"
        "    note: this module is used by the node `pipe` (flow.yml:6:13)"
    )


# --------------------------------------------------------------------------- problems

HEADER = "module: {name: m, inputs: [frames], outputs: [boxes]}\nnodes:\n"
NODES = "  - {id: find, path: f.py, inputs: {i: _mod/frames}, outputs: [boxes]}\n"


@pytest.mark.parametrize(
    ("module", "line", "marked", "message", "hint"),
    [
        ("", 1, "", "a module is a mapping", "`module` and `nodes`"),
        ("nodes: []\n", 1, "nodes", "the field `module` of a module is missing", "ports"),
        ("module: {}\nnodes: []\n", 1, "{}", "the field `name` of the header", "for people"),
        ("module: {name: m, input: []}\nnodes: []\n", 1, "input", "has no field `input`", "`inputs`?"),
        ("module: {name: m}\nnodes: []\nenv: {}\n", 3, "env", "a module has no field `env`", "node"),
        ("module: {name: m, inputs: frames}\nnodes: []\n", 1, "frames", "expected a list", "[frames]"),
        (HEADER + NODES.replace("path", "pth"), 3, "pth", "a node has no field `pth`", "`path`?"),
        (HEADER + NODES + NODES, 4, "find", "two nodes with the id `find`", "its own"),
        (HEADER + NODES.replace("frames", "frmes"), 3, "frmes", "has no port `frmes`", "`frames`?"),
        (HEADER + NODES.replace("frames", "x"), 3, "x", "no port `x`", "`inputs` of the module's header"),
        (HEADER + NODES.replace("id: find", "id: _mod"), 3, "_mod", "stands for the ports", ""),
        (HEADER + NODES.replace("[boxes]", "[box]"), 1, "boxes", "has the output `boxes`", "`box`?"),
        (
            HEADER + NODES + NODES.replace("id: find", "id: seek"),
            1,
            "boxes",
            "could be any of `find/boxes` and `seek/boxes`",
            "rename",
        ),
        (
            HEADER + NODES.replace("_mod/frames", "find/boxs"),
            3,
            "boxs",
            "has no output `boxs`",
            "find/boxes",
        ),
        (HEADER + NODES.replace("_mod/frames", "fnd/boxes"), 3, "fnd", "no node `fnd`", "`find/boxes`?"),
        (HEADER + NODES.replace("f.py", "../../f.py"), 3, "../../f.py", "leads outside", "move the file"),
        (HEADER + "  - {id: a, module: mods/m.yml}\n", 3, "mods/m.yml", "no file `mods/mods/m.yml`", ""),
        (
            HEADER + NODES + "  - {id: a, module: m.yml}\n",
            4,
            "m.yml",
            "use each other in a circle: `mods/m.yml` → `mods/m.yml`",
            "",
        ),
        (HEADER + "  - {id: find\n", 3, "{id:", "this mapping is never closed", "`}`"),
    ],
)
def test_problems_of_a_module_point_into_its_file(
    project: Project, module: str, line: int, marked: str, message: str, hint: str
) -> None:
    project.write(flow=FLOW.replace("detect", "m"), mods__m=module)
    (problem,) = project.problems()
    assert message in problem.message
    assert hint in problem.hint
    assert (problem.file, problem.line) == ("mods/m.yml", line)
    assert problem.source[problem.column - 1 :][: problem.width].startswith(marked)
    assert problem.note == "this module is used by the node `pipe` (flow.yml:6:13)"


@pytest.mark.parametrize(
    ("old", "new", "marked", "message", "hint"),
    [
        ("frames: camera", "frmes: camera", "frmes", "has no input `frmes`", "did you mean `frames`?"),
        ("    inputs: {frames: camera/image}\n", "", "mods/detect.yml", "`frames` of the module", "add"),
        ("{frames: camera/image}", "", "inputs", "is not connected", "add `frames: <node>/<output>`"),
        ("camera/image}", "camra/image}", "camra", "the input `frames` of node `pipe`", "camera/image"),
        ("pipe/boxes", "pipe/boxs", "boxs", "the node `pipe` has no output `boxs`", "`pipe/boxes`?"),
        ("pipe/boxes", "pipe.fnd/boxes", "pipe.fnd", "there is no node `pipe.fnd`", "`pipe.find/boxes`?"),
        (
            "pipe/boxes",
            "pipe.find/boxs",
            "boxs",
            "the node `pipe.find` has no output `boxs`",
            "`pipe.find/boxes`?",
        ),
        ("pipe/boxes", "_mod/boxes", "_mod", "there is no node `_mod`", "only the file of a module"),
        ("mods/detect.yml", "mods/detct.yml", "mods/", "no file `mods/detct.yml`", "`detect.yml`?"),
        ("mods/detect.yml", "mods", "mods", "`mods` is a folder", ""),
        ("mods/detect.yml", "../detect.yml", "../", "lies outside the folder", "move it"),
        ("mods/detect.yml", "/mods/detect.yml", "/mods", "not a relative path", "below the folder"),
        ("mods/detect.yml", "http://x/m.yml", "http:", "not a relative path", "below the folder"),
        ("mods/detect.yml", "''", "''", "expected the path of a module", ""),
        (
            "    inputs: {frames",
            "    path: a\n    inputs: {frames",
            "module",
            "has both `path` and",
            "keep",
        ),
        (
            "    inputs: {frames",
            "    args: a\n    inputs: {frames",
            "args",
            "cannot have the field",
            "write",
        ),
        (
            "    inputs: {f",
            "    params: {a b: 1}\n    inputs: {f",
            "a b",
            "cannot name a parameter",
            "only",
        ),
        ("    inputs: {f", "    params: {a: 1, A: 2}\n    inputs: {f", "A", "are both `$PARAM_A`", ""),
        ("    inputs: {f", "    params: [a]\n    inputs: {f", "[a]", "a mapping of parameters", "speed"),
        ("    inputs: {f", "    params: {a: []}\n    inputs: {f", "[]", "a text, number or boolean", ""),
        ("{frames: camera/image}", "[camera/image]", "[camera", "expected a mapping of inputs", ""),
        ("path: plot.py", "path: p\n    params: {a: 1}", "params", "but uses no `module`", ""),
        ("id: plot", "id: pipe", "pipe", "two nodes with the id `pipe`", "its own"),
    ],
)
def test_problems_of_using_a_module_point_to_the_use(
    project: Project, old: str, new: str, marked: str, message: str, hint: str
) -> None:
    assert old in FLOW
    problems = project.write(flow=FLOW.replace(old, new), mods__detect=DETECT).problems()
    problem = problems[0]
    assert message in problem.message
    assert hint in problem.hint
    assert problem.file == "flow.yml" and not problem.note
    assert problem.source[problem.column - 1 :][: problem.width].startswith(marked)
    assert len(problems) == 1, problems


def test_a_mistake_in_a_module_used_twice_is_reported_once(project: Project) -> None:
    flow = FLOW + "  - {id: again, module: mods/detect.yml, inputs: {frames: camera/image}}\n"
    flow += "  - {id: use, module: mods/use.yml}\n"
    use = "module: {name: u}\nnodes: [{id: d, module: detect.yml, inputs: {frames: d/boxes}}]"
    project.write(flow=flow, mods__use=use)
    for mistake in (
        DETECT.replace("find.py", "find.py\n    max_restarts: many"),
        DETECT.replace("scale/small", "scle/small"),
        DETECT.replace("find.py", "find.py\n    env: {A: $NOPE}"),
    ):
        assert len(project.write(mods__detect=mistake).problems()) == 1


def test_a_module_that_passes_on_outputs_of_a_broken_one_is_not_blamed(project: Project) -> None:
    use = "module: {name: u, outputs: [boxes]}\n"
    use += "nodes: [{id: d, module: detect.yml, inputs: {frames: d/boxes}}]"
    project.write(
        flow=FLOW + "  - {id: use, module: mods/use.yml}\n",
        mods__use=use,
        mods__detect=DETECT.replace("find.py", "find.py\n    max_restarts: many"),
    )
    (problem,) = project.problems()
    assert problem.file == "mods/detect.yml"


def test_a_warning_in_a_module_is_reported_once(project: Project) -> None:
    flow = FLOW + "  - {id: again, module: mods/detect.yml, inputs: {frames: camera/image}}\n"
    inner = DETECT.replace("path: scale.py", "custom: {source: scale.py}")
    inner = inner.replace("path: find.py", "path: dynamic\n    args: x\n    outputs: [boxes]")
    project.write(flow=flow, mods__detect=inner)
    warnings = dora.dataflow.load("flow.yml").warnings
    assert [(w.file, w.line, w.message.split("`")[1]) for w in warnings] == [
        ("mods/detect.yml", 8, "custom"),
        ("mods/detect.yml", 13, "args"),
        ("mods/detect.yml", 16, "outputs"),
    ]
    assert "on the node `find`" in warnings[1].message
    assert project.nodes()["again.scale"]["path"] == "mods/scale.py"


def test_problems_of_nested_modules_name_the_whole_path(project: Project) -> None:
    project.write(
        flow="nodes: [{id: a, module: m/a.yml}]",
        m__a="module: {name: a}\nnodes: [{id: b, module: b.yml}]",
        m__b="module: {name: b}\nnodes: [{id: c}]",
    )
    (problem,) = project.problems()
    assert problem.note == (
        "this module is used by the node `b` (m/a.yml:2:25), which is used by the node `a` (flow.yml:1:25)"
    )


def test_a_circle_is_named_as_a_whole(project: Project) -> None:
    text = "module: {{name: m}}\nnodes: [{{id: x, module: {}.yml}}]\n"
    (problem,) = project.write(
        flow="nodes: [{id: a, module: a.yml}]", a=text.format("b"), b=text.format("c"), c=text.format("b")
    ).problems()
    assert "circle: `b.yml` → `c.yml` → `b.yml`" in problem.message
    assert problem.file == "c.yml"


@pytest.mark.parametrize("order", [1, -1])
def test_modules_are_nested_eight_deep_and_no_deeper(project: Project, order: int) -> None:
    text = "module: {{name: m}}\nnodes: [{{id: x, module: m{}.yml}}]\n"
    project.write(m9="module: {name: m}\nnodes: [{id: x, path: x.py}]\n")
    for level in range(1, 9):
        project.write(**{f"m{level}": text.format(level + 1)})
    uses = [f"{{id: n{level}, module: m{level}.yml}}" for level in (2, 5)]
    nodes = project.write(flow=f"nodes: [{', '.join(uses[::order])}]").nodes()
    assert set(nodes) == {"n2.x.x.x.x.x.x.x.x", "n5.x.x.x.x.x"}
    uses.append("{id: n1, module: m1.yml}")
    (problem,) = project.write(flow=f"nodes: [{', '.join(uses[::order])}]").problems()
    assert "nested more than 8 levels deep" in problem.message


def test_an_open_port_that_is_passed_on_has_to_be_optional_there_too(project: Project) -> None:
    flow = "nodes: [{id: a, module: a.yml}]"
    inner = "module: {name: b, inputs: [i]}\nnodes: [{id: x, path: x.py, inputs: {i: _mod/i}}]"
    outer = "module: {name: a, inputs_optional: [i]}\nnodes: [{id: b, module: b.yml, inputs: {i: _mod/i}}]"
    (problem,) = project.write(flow=flow, a=outer, b=inner).problems()
    assert "is fed by a port that is left open" in problem.message
    assert "`inputs_optional`" in problem.hint
    project.write(b=inner.replace("inputs:", "inputs_optional:", 1))
    assert project.nodes() == {"a.b.x": {"id": "a.b.x", "path": "x.py", "inputs": {}}}


def test_modules_are_small_files(project: Project) -> None:
    (problem,) = project.write(flow=FLOW, mods__detect="#" * (1 << 20) + "\n").problems()
    assert "detect.yml` is larger than 1 MiB" in problem.message


@pytest.mark.lengthy
def test_modules_that_multiply_are_refused(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dora.dataflow.modules.inline.MAX_VALUES", 10_000)  # the real limit takes seconds

    def text(n: int) -> str:
        nodes = ", ".join(f"{{id: x{i}, module: m{n}.yml}}" for i in range(20))
        return f"module: {{name: m}}\nnodes: [{nodes}]\n"

    for level in range(1, 8):
        project.write(**{f"m{level}": text(level + 1)})
    project.write(
        m8="module: {name: m}\nnodes: [{id: x, path: x.py}]\n", flow="nodes: [{id: a, module: m1.yml}]"
    )
    (problem,) = project.problems()
    assert "grows too large" in problem.message


def test_ids_are_unique_with_modules_written_out(project: Project) -> None:
    flow = FLOW + "  - {id: pipe.find, path: find.py}\n"
    (problem,) = project.write(flow=flow, mods__detect=DETECT).problems()
    assert "two nodes called pipe.find; the other one is mods/detect.yml:11:9" in problem.message
    assert (problem.file, problem.line) == ("flow.yml", 11)


def test_modules_of_a_dataflow_from_the_web_are_looked_for_here(project: Project) -> None:
    project.write(mods__detect=DETECT)
    web = {"file": "https://example.org/flow.yml", "working_dir": str(project.folder), "environ": {}}
    assert len(dora.dataflow.parse(FLOW, **web).nodes) == 4
    project.write(mods__detect=DETECT.replace("path: find", "pth: find"))
    with pytest.raises(DataflowError, match=r"^mods/detect.yml:12:5: error"):
        dora.dataflow.parse(FLOW, **web)


def test_a_module_is_no_dataflow(project: Project) -> None:
    (problem,) = project.write(flow=DETECT).problems()
    assert (problem.message, problem.line) == ("this file is a module, not a dataflow", 1)
    assert "`dora expand --module FILE`" in problem.hint


def test_a_module_can_be_checked_by_itself(project: Project) -> None:
    project.write(mods__detect=DETECT, mods__outer=OUTER.replace("../", ""))
    dora.dataflow.check_module("mods/detect.yml")
    dora.dataflow.check_module("mods/outer.yml")
    dora.dataflow.check_module(project.folder / "mods" / "outer.yml")
    project.write(mods__detect=DETECT.replace("_mod/frames", "_mod/frmes"))
    with pytest.raises(DataflowError, match=r"(?s)^mods/detect.yml:9:26: error: .*mods/outer.yml:4:25"):
        dora.dataflow.check_module("mods/outer.yml")


OPEN_PORT = """module:
  name: fuse
  inputs: [a, b]
  inputs_optional: [c]
nodes:
  - id: fuse
    path: fuse.py
    inputs: {a: _mod/a, b: _mod/b, c: _mod/c}
    input_types: {a: std/core/v1/Float32, c: std/core/v1/Float32}
    sync:
      - {inputs: [a, b, c], tolerance: 5ms, history: {b: [-2, 0], c: [-1, 0]}}
  - id: pair
    operator:
      python: pair.py
      inputs: {a: _mod/a, c: _mod/c}
      sync: [{inputs: [c, a], tolerance: 5ms}]
  - id: bridge
    inputs: {a: _mod/a, c: _mod/c, d_e: _mod/c}
    outputs: [c]
    ros2:
      topics:
        - {topic: /one, message_type: std_msgs/String, direction: publish, input: a}
        - {topic: /two, message_type: std_msgs/String, direction: publish, input: c}
        - {topic: /c, message_type: std_msgs/String, direction: subscribe}
        - {topic: /d/e, message_type: std_msgs/String, direction: publish}
"""


def test_what_describes_an_open_port_is_left_out_with_the_input(project: Project) -> None:
    flow = """strict_types: true
nodes:
  - {id: s, path: s.py, outputs: [a, b, c]}
  - {id: open, module: fuse.yml, inputs: {a: s/a, b: s/b}}
  - {id: full, module: fuse.yml, inputs: {a: s/a, b: s/b, c: s/c}}
"""
    dataflow = project.write(flow=flow, fuse=OPEN_PORT).load()
    (group,) = dataflow.node("open.fuse").syncs
    assert (group.inputs, group.history) == (("a", "b"), {"b": 2})
    assert dataflow.node("open.pair").syncs == ()
    bridges = {name: dataflow.node(f"{name}.bridge").ros2 for name in ("open", "full")}
    ports = {name: [topic.ports for topic in block.topics] for name, block in bridges.items() if block}
    assert ports == {"open": [("a",), ("c",)], "full": [("a",), ("c",), ("c",), ("d_e",)]}
    assert [group.inputs for group in dataflow.node("full.fuse").syncs] == [("a", "b", "c")]
    assert [group.inputs for group in dataflow.node("full.pair").syncs] == [("c", "a")]


def test_budgets_and_the_black_box_name_outputs_of_a_module(project: Project) -> None:
    flow = (
        FLOW
        + """paths:
  - {from: pipe/boxes, to: plot/boxes, budget: 40ms}
black_box: {outputs: [camera/image, pipe/boxes], leave_out: [pipe/boxes], save_on: [pipe/boxes]}
"""
    )
    dataflow = project.write(flow=flow, mods__detect=DETECT).load()
    source = str(next(item.source for item in dataflow.node("plot").inputs if item.id == "boxes"))
    assert source.startswith("pipe.")
    assert [str(path.source) for path in dataflow.paths] == [source]
    box = dataflow.black_box
    assert (box.outputs, box.leave_out, box.save_on) == (("camera/image", source), (source,), (source,))


def test_a_wrong_output_of_a_module_is_named_as_it_is_written(project: Project) -> None:
    project.write(flow=f"{FLOW}black_box: {{outputs: [pipe/boxs]}}\n", mods__detect=DETECT)
    (problem,) = project.problems()
    assert (problem.file, problem.line) == ("flow.yml", 11)
    assert problem.message == "no node has the output `pipe/boxs`"


@pytest.mark.parametrize(
    ("written", "becomes"),
    [
        ("./repo", "./mods/repo"),
        ("../repo", "./repo"),
        ("../../repo", "./../repo"),
        ("/srv/repo", "/srv/repo"),
        ("https://example.com/repo.git", "https://example.com/repo.git"),
        ("git@example.com:me/repo.git", "git@example.com:me/repo.git"),
    ],
)
def test_a_repository_in_a_folder_is_relative_to_the_file_of_the_module(
    project: Project, written: str, becomes: str
) -> None:
    module = f"module: {{name: m}}\nnodes:\n  - {{id: n, path: n.py, git: '{written}'}}\n"
    flow = "nodes: [{id: m, module: mods/m.yml}]\n"
    node = project.write(flow=flow, mods__m=module).load().node("m.n")
    assert node.git is not None and node.git.repository == becomes
    assert node.path == "n.py"  # in the repository
