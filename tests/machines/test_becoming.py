"""What comes from the coordinator and what runs here are put together."""

from __future__ import annotations

from dora.dataflow.model import Dataflow, Input, Node, NodeOutput, Operator
from dora.machine.becoming import localised


def test_what_runs_here_keeps_its_program_and_gets_its_inputs() -> None:
    built = Node("a", "/built/a.py", outputs=("x",))
    running = Dataflow((built, Node("b", "b.py")), "/here", env={"A": "1"})
    wanted = Dataflow(
        (
            Node("a", "a.py", outputs=("x",), inputs=(Input("in", NodeOutput("c", "z")),)),
            Node("b", "elsewhere.py"),
            Node("c", "c.py", outputs=("z",)),
        ),
        "/there",
        descriptor={"nodes": []},
    )
    found = localised(wanted, running, here={"a", "c"}, built={"c": Node("c", "/built/c.py")})
    assert [node.path for node in found.nodes] == ["/built/a.py", "elsewhere.py", "/built/c.py"]
    assert [item.id for item in found.node("a").inputs] == ["in"]
    assert (found.working_dir, found.env, found.descriptor) == ("/here", {"A": "1"}, {"nodes": []})


def test_operators_get_their_inputs_too() -> None:
    item = Input("in", NodeOutput("b", "y"))
    runtime = Node("a", operators=(Operator("one", "/built/one.py"), Operator("two", "/built/two.py")))
    wanted = Node(
        "a",
        operators=(Operator("one", "one.py", inputs=(item,)), Operator("two", "two.py")),
        inputs=(Input("one/in", item.source),),
    )
    found = localised(Dataflow((wanted,), "/"), Dataflow((runtime,), "/"), here={"a"}, built={}).node("a")
    assert [operator.python for operator in found.operators] == ["/built/one.py", "/built/two.py"]
    assert found.operators[0].inputs == (item,) and found.inputs == wanted.inputs
