"""What comes from the coordinator and what runs here are put together."""

from __future__ import annotations

from dora.daemon.apply_operation import localized
from dora.dataflow.model import Dataflow, InputSpec, NodeOutput, NodeSpec, OperatorSpec


def test_running_nodes_keep_their_program_and_get_new_inputs() -> None:
    built = NodeSpec("a", "/built/a.py", outputs=("x",))
    running = Dataflow((built, NodeSpec("b", "b.py")), "/here", env={"A": "1"})
    wanted = Dataflow(
        (
            NodeSpec("a", "a.py", outputs=("x",), inputs=(InputSpec("in", NodeOutput("c", "z")),)),
            NodeSpec("b", "elsewhere.py"),
            NodeSpec("c", "c.py", outputs=("z",)),
        ),
        "/there",
        descriptor={"nodes": []},
    )
    found = localized(wanted, running, here={"a", "c"}, built={"c": NodeSpec("c", "/built/c.py")})
    assert [node.path for node in found.nodes] == ["/built/a.py", "elsewhere.py", "/built/c.py"]
    assert [item.id for item in found.node("a").inputs] == ["in"]
    assert (found.working_dir, found.env, found.descriptor) == ("/here", {"A": "1"}, {"nodes": []})


def test_running_operators_keep_their_program_and_get_new_inputs() -> None:
    item = InputSpec("in", NodeOutput("b", "y"))
    runtime = NodeSpec(
        "a", operators=(OperatorSpec("one", "/built/one.py"), OperatorSpec("two", "/built/two.py"))
    )
    wanted = NodeSpec(
        "a",
        operators=(OperatorSpec("one", "one.py", inputs=(item,)), OperatorSpec("two", "two.py")),
        inputs=(InputSpec("one/in", item.source),),
    )
    found = localized(Dataflow((wanted,), "/"), Dataflow((runtime,), "/"), here={"a"}, built={}).node("a")
    assert [operator.python for operator in found.operators] == ["/built/one.py", "/built/two.py"]
    assert found.operators[0].inputs == (item,) and found.inputs == wanted.inputs
