"""``python -m dora.runtime``: the process that hosts the operators of a node."""

from dora.node.runtime import start_runtime

if __name__ == "__main__":
    start_runtime()
