"""Dataflows made at random from a seed: the same seed gives the same dataflow. Pure.

All nodes run one of the two programs in `random_nodes/`, which read what to do from the variable `PLAN`.
"""

import json
import random
from dataclasses import dataclass, field
from typing import Any

PAYLOADS = (
    "int64",
    "bytes",
    "floats",
    "texts",
    "struct",
    "lists",
    "nulls",
    "slice",
    "dictionary",
    "truths",
    "empty",
    "moments",
    "batch",
    "kilobytes",
)
METADATA: tuple[dict[str, Any], ...] = (
    {},
    {"flag": True, "gain": 0.5, "name": "a b"},
    {"sizes": [1, 2, 3], "labels": ["x", "y"], "none": []},
    {"request_id": "r-1", "goal_id": "g-1"},
    {"ratios": [0.5, 1.5], "number": -7, "deep/key": "ä"},
)
RECEIVES = ("iterate", "iterate", "next", "timeout", "async", "poll", "drain")
LEAVES = ("break", "raise", "exit 3", "os._exit 4", "break")
ENOUGH = 1000  # a queue that holds all messages of a dataflow


@dataclass
class Output:
    """An output while the dataflow is made: its messages, and whether their number is left to chance."""

    source: str
    count: int
    lossy: bool = False


@dataclass
class Dataflow:
    """A dataflow, the files beside it, and what of it is left to chance.

    `lossy` has the inputs that may lose messages, as (node, input): a small queue, or a sender that goes on
    until another node is done. `leaves` has the nodes that end before their inputs do, and `operators` the
    nodes that are operators.
    """

    seed: int
    document: dict[str, Any]
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    lossy: set[tuple[str, str]] = field(default_factory=set)
    leaves: set[str] = field(default_factory=set)
    operators: set[str] = field(default_factory=set)


def generate(seed: int) -> Dataflow:
    """Return the dataflow of this seed."""
    return _Generator(seed).dataflow()


class _Generator:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.made = Dataflow(seed, {"nodes": []})
        self.outputs: list[Output] = []

    def dataflow(self) -> Dataflow:
        if self.chance(0.3):
            self.made.document["env"] = self.random.choice(
                ({"SHARED": "yes"}, {"NUMBER": 7}, {"FLAG": True})
            )
        for number in range(self.random.randint(1, 2)):
            self.add_source(f"source-{number}")
        if self.chance(0.12):
            self.add_restarting_pair()
        for number in range(self.random.randint(1, 4)):
            self.add_receiver(f"node-{number}")
        return self.made

    def add_source(self, name: str) -> None:
        pace = self.random.choice(("burst", "burst", "tick", "pause"))
        limit = 60 if pace == "burst" else 20
        sends = [
            {
                "output": self.random.choice((f"out-{number}", f"part/{number}")),
                "count": self.random.choice([n for n in (1, 2, 5, 10, 20, 40, 60) if n <= limit]),
                "payload": self.random.choice(PAYLOADS),
                "metadata": self.random.choice(METADATA),
            }
            for number in range(self.random.randint(1, 2))
        ]
        plan: dict[str, Any] = {"pace": pace, "sends": sends}
        node: dict[str, Any] = {
            "id": name,
            "path": "node.py",
            "outputs": [send["output"] for send in sends],
        }
        if pace == "tick":
            node["inputs"] = {"tick": self.random.choice(("dora/timer/millis/10", "dora/timer/hz/50"))}
        if self.chance(0.2):
            plan["leave"] = self.random.choice(LEAVES)
            self.made.leaves.add(name)
        for send in sends:
            self.outputs.append(Output(f"{name}/{send['output']}", int(send["count"])))
        if self.chance(0.12):
            plan["lines"] = self.random.randint(1, 10)
            node["send_stdout_as"] = "printed"
            node["outputs"].append("printed")
            self.outputs.append(Output(f"{name}/printed", plan["lines"]))
        if self.chance(0.2):
            node["args"] = self.random.choice(
                ("--gain 0.5 'two words'", '-v --name="x y"', "one two three")
            )
        self.add_node(node, plan)

    def add_receiver(self, name: str) -> None:
        chosen = [self.random.choice(self.outputs) for _ in range(self.random.randint(1, 3))]
        chosen = [output for number, output in enumerate(chosen) if output not in chosen[:number]]
        if self.chance(0.1):
            chosen.append(chosen[0])  # one output on two inputs
        inputs: dict[str, Any] = {}
        lossy = False
        for number, output in enumerate(chosen):
            identifier = f"in-{number}"
            inputs[identifier], small = self.add_input(output)
            if small or output.lossy:
                lossy = True
                self.made.lossy.add((name, identifier))
        plan: dict[str, Any] = {"receive": self.random.choice(RECEIVES), "forwards": {}}
        node: dict[str, Any] = {"id": name, "path": "node.py"}
        count = sum(output.count for output in chosen)
        leaves = len(chosen) == 1 and not lossy and self.chance(0.25)
        if leaves:
            count = self.random.randint(1, count)
            plan |= {"leave": self.random.choice(LEAVES), "after": count}
            self.made.leaves.add(name)
        if self.chance(0.2) and not leaves:
            inputs["tick"] = "dora/timer/millis/50"
            self.made.document["exit_when_nodes_finish"] = True
        if self.chance(0.6):
            plan["forwards"] = {identifier: "result" for identifier in inputs if identifier != "tick"}
            node["outputs"] = ["result"]
        node["inputs"] = inputs
        if self.chance(0.2) and not leaves:
            self.add_operator(node, plan)
        elif self.chance(0.15) and len(chosen) == 1 and "tick" not in inputs and node.get("outputs"):
            self.add_module(node, plan)
        else:
            self.add_node(node, plan)
        if plan["forwards"]:
            self.outputs.append(Output(f"{name}/result", count, lossy))

    def add_input(self, output: Output) -> tuple[Any, bool]:
        """Return an input for this output, and whether its queue is too small to hold every message."""
        if self.chance(0.12):
            return {"source": output.source, "queue_size": self.random.randint(1, 4)}, True
        if self.chance(0.12) and output.count <= 100:
            return {"source": output.source, "queue_size": 10, "queue_policy": "backpressure"}, False
        if output.count <= 10 and not output.lossy:
            return output.source, False
        return {"source": output.source, "queue_size": ENOUGH}, False

    def add_restarting_pair(self) -> None:
        """Add a node that fails and is restarted; its sender goes on until the last process is done."""
        restarts = self.random.randint(1, 2)
        recovers = self.chance(0.7)
        after = self.random.randint(1, 5)
        self.add_node(
            {"id": "pulse", "path": "node.py", "outputs": ["beat"]},
            {
                "pace": "until",
                "sends": [{"output": "beat", "payload": "int64", "metadata": {}, "count": 0}],
            },
        )
        self.made.leaves |= {"pulse", "worker"}
        self.made.lossy.add(("worker", "beat"))
        self.add_node(
            {
                "id": "worker",
                "path": "node.py",
                "inputs": {"beat": "pulse/beat"},
                "restart_policy": self.random.choice(
                    ("on-failure", "always") if not recovers else ("on-failure",)
                ),
                "max_restarts": restarts,
                "restart_delay": 0.1,
            },
            {
                "receive": "iterate",
                "forwards": {},
                "after": after,
                "leave": self.random.choice(("raise", "exit 3", "os._exit 4")),
                "recovers": restarts if recovers else None,
                "last": restarts,
            },
        )

    def add_operator(self, node: dict[str, Any], plan: dict[str, Any]) -> None:
        self.made.operators.add(node["id"])
        operator = {"python": "operator_program.py", "inputs": node["inputs"]}
        if "outputs" in node:
            operator["outputs"] = node["outputs"]
        self.add_node({"id": node["id"], "operator": operator}, plan)

    def add_module(self, node: dict[str, Any], plan: dict[str, Any]) -> None:
        name = node["id"]
        (source,) = node["inputs"].values()
        plan["name"] = f"{name}.inner"
        inner = {
            **node,
            "id": "inner",
            "inputs": {"in-0": {"source": "_mod/port", "queue_size": ENOUGH}},
            "env": {"PLAN": json.dumps(plan)},
        }
        self.made.files[f"{name}-module.yml"] = {
            "module": {"name": name, "inputs": ["port"], "outputs": ["result"]},
            "nodes": [inner],
        }
        if (name, "in-0") in self.made.lossy:
            self.made.lossy.add((f"{name}.inner", "in-0"))
        if name in self.made.leaves:
            self.made.leaves.add(f"{name}.inner")
        plain = source["source"] if isinstance(source, dict) else source
        outer = {"id": name, "module": f"{name}-module.yml", "inputs": {"port": plain}}
        self.made.document["nodes"].append(outer)

    def add_node(self, node: dict[str, Any], plan: dict[str, Any]) -> None:
        self.made.document["nodes"].append(
            {**node, "env": {"PLAN": json.dumps({**plan, "name": node["id"]})}}
        )

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability
