"""Make Arrow's first arrays: a template process of nodes with messages imports this; its forks have them.

Arrow imports other packages for them, pandas among these. So a node without messages has none of this.
"""

from __future__ import annotations

from dora.node.warm_up import make_and_read_message, warm_up_arrow

_ROUNDS = 100  # the interpreter specialises instructions that have run several times; forks have them so


def warm_up() -> None:
    """Make them. A process that is forked ahead makes them again, and so copies the memory it writes to."""
    warm_up_arrow(receives=True, sends=True)


warm_up()
for _ in range(_ROUNDS):
    make_and_read_message()
