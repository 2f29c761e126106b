"""Cooks what is ordered, step by step, and stops if the guest changes their mind."""

import pyarrow as pa

from dora import GoalRun, Node

RECIPES = {"soup": ["chop", "boil", "season"], "roast": ["salt", *["wait"] * 10_000]}

node = Node()


@node.serve_goals("goal", result="result", feedback="feedback", cancel="cancel")
def cook(goal: GoalRun) -> pa.StringArray | None:
    dish = goal.value[0].as_py()
    for step in RECIPES[dish]:
        goal.send_feedback(pa.array([step]))
        if goal.wait_for_cancel(0.001):  # a step takes a while, unless it is canceled
            goal.cancel(pa.array([f"half a {dish}"]))
            return None
    return pa.array([f"a {dish}"])


for _ in node:
    pass
