"""Dataflow files, correct and wrong, for `dora validate` and `dora expand`: text by name."""

SENDER = "nodes:\n  - {id: a, path: a.py, outputs: [x, y]}\n"


def _node(fields: str) -> str:
    """Return a dataflow whose second node has these fields."""
    return f"{SENDER}  - {{id: b, path: b.py, {fields}}}\n"


def _input(value: str) -> str:
    return _node(f"inputs: {{i: {value}}}")


_INPUTS = {
    "short": "a/x",
    "long": "{source: a/x, queue_size: 3}",
    "backpressure": "{source: a/x, queue_size: 3, queue_policy: backpressure}",
    "time-out": "{source: a/x, input_timeout: 1.5}",
    "queue of zero": "{source: a/x, queue_size: 0}",
    "negative queue": "{source: a/x, queue_size: -1}",
    "queue as text": "{source: a/x, queue_size: many}",
    "fractional queue": "{source: a/x, queue_size: 1.5}",
    "unknown policy": "{source: a/x, queue_policy: newest}",
    "unknown field": "{source: a/x, colour: red}",
    "hyphenated field": "{source: a/x, queue-size: 2}",
    "negative time-out": "{source: a/x, input_timeout: -1}",
    "no source": "{queue_size: 1}",
    "unknown node": "c/x",
    "unknown output": "a/z",
    "no slash": "ax",
    "empty": '""',
    "number": "3",
    "list": "[a/x, a/y]",
    "trailing slash": "a/x/",
    "itself": "b/x",
    "millis": "dora/timer/millis/10",
    "secs": "dora/timer/secs/1",
    "micros": "dora/timer/micros/500",
    "nanos": "dora/timer/nanos/500",
    "hertz": "dora/timer/hz/30",
    "fractional hertz": "dora/timer/hz/0.5",
    "zero interval": "dora/timer/millis/0",
    "zero hertz": "dora/timer/hz/0",
    "negative interval": "dora/timer/millis/-5",
    "fractional millis": "dora/timer/millis/1.5",
    "unknown unit": "dora/timer/days/1",
    "no interval": "dora/timer/millis",
    "unknown source of dora": "dora/clock",
    "logs": "dora/logs",
    "logs of a level": "dora/logs/WARN",
    "logs of a node": "dora/logs/info/a",
    "logs of an unknown node": "dora/logs/info/zz",
    "logs of an unknown level": "dora/logs/loud",
}

_FIELDS = {
    "all texts": "name: N, description: D, args: -v, build: echo x",
    "list as args": "args: [a, b]",
    "bad quotes in args": 'args: "a \'b"',
    "env": "env: {A: 1, B: true, C: 1.5, D: text}",
    "list in env": "env: {A: [1]}",
    "null in env": "env: {A: }",
    "bad name in env": 'env: {"A B": 1}',
    "unknown field": "pth: x",
    "restart": "restart_policy: on-failure, max_restarts: 3, restart_delay: 0.5, "
    "max_restart_delay: 5, restart_window: 10",
    "restart always": "restart_policy: always",
    "unknown restart": "restart_policy: sometimes",
    "negative restarts": "max_restarts: -1",
    "negative delay": "restart_delay: -1",
    "infinite delay": "restart_delay: .inf",
    "delay above its limit": "restart_delay: 5, max_restart_delay: 1",
    "zero delay": "restart_delay: 0",
    "health": "health_check_timeout: 3",
    "zero health": "health_check_timeout: 0",
    "start-up": "startup_timeout: 3",
    "zero start-up": "startup_timeout: 0",
    "grace": "finish_grace_secs: 3",
    "affinity": "cpu_affinity: [0]",
    "negative affinity": "cpu_affinity: [-1]",
    "log fields": "min_log_level: info, max_log_size: 1KB, max_rotated_files: 3",
    "unknown log level": "min_log_level: loud",
    "bad log size": "max_log_size: much",
    "no rotated files": "max_rotated_files: 0",
    "too many rotated files": "max_rotated_files: 101",
    "printed to an output": "outputs: [printed], send_stdout_as: printed",
    "printed to no output": "send_stdout_as: printed",
    "logs to no output": "send_logs_as: logs",
    "duplicate outputs": "outputs: [x, x]",
    "bad output": 'outputs: ["a b"]',
    "output with slash": "outputs: [a/b]",
    "output with leading slash": "outputs: [/b]",
    "outputs as text": "outputs: x",
    "outputs as map": "outputs: {x: y}",
    "no outputs": "outputs: []",
    "outputs null": "outputs:",
    "inputs null": "inputs:",
    "inputs as list": "inputs: [a/x]",
    "bad input name": 'inputs: {"a b": a/x}',
    "types": "outputs: [x], output_types: {x: std/core/v1/Int64}",
    "unknown type": "outputs: [x], output_types: {x: std/core/v1/Int65}",
    "type of no output": "output_types: {x: std/core/v1/Int64}",
    "pattern": "pattern: service-server",
    "unknown pattern": "pattern: waiter",
    "framing": "outputs: [x], output_framing: {x: raw}",
    "memory pool": "shared_memory_pool_size: 64MB",
    "bad memory pool": "shared_memory_pool_size: huge",
    "git": "git: 'https://example.com/x.git', branch: main",
    "branch and tag": "git: 'https://example.com/x.git', branch: main, tag: v1",
    "branch without git": "branch: main",
    "deploy": "deploy: {machine: m}",
    "deploy with labels": "deploy: {labels: {gpu: 'yes'}}",
    "deploy with folder": "deploy: {working_dir: /tmp}",
    "deploy with relative folder": "deploy: {working_dir: tmp}",
    "distribute": "deploy: {distribute: http}",
    "distribute by scp": "deploy: {distribute: scp}",
    "distribute with a folder": "deploy: {distribute: scp, working_dir: /tmp}",
    "distribute to a machine and folder": "deploy: {machine: m, distribute: http, working_dir: /tmp}",
    "metadata of an input": "inputs: {i: {source: a/x, metadata: {primitive: image}}}",
    "null among outputs": "outputs: [x, ~]",
    "unknown distribute": "deploy: {distribute: pigeon}",
    "unknown field of deploy": "deploy: {colour: red}",
    "hash without URL": f"path_sha256: {'0' * 64}",
    "operator beside a path": "operator: {python: o.py}",
}

_WHOLE = {
    "empty": "",
    "no nodes": "nodes: []",
    "nodes null": "nodes:",
    "nodes as map": "nodes: {a: {path: a.py}}",
    "text": "hello",
    "bad YAML": "nodes: [",
    "tab": "nodes:\n\t- id: a",
    "two documents": "nodes: []\n---\nnodes: []\n",
    "duplicate key": "nodes: []\nnodes: []\n",
    "unknown field": "nodes: []\nnode: 1\n",
    "anchors": "common: &c {path: a.py}\nnodes: []\n",
    "anchors within": "nodes:\n  - &n {id: a, path: a.py}\n",
    "merge key": "nodes:\n  - {id: a, path: a.py, env: &e {A: 1}}\n"
    "  - {id: b, path: b.py, env: {<<: *e}}\n",
    "one node": "nodes: [{id: a, path: a.py}]",
    "no path": "nodes: [{id: a}]",
    "no id": "nodes: [{path: a.py}]",
    "number as id": "nodes: [{id: 1, path: a.py}]",
    "id with slash": "nodes: [{id: a/b, path: a.py}]",
    "id with space": "nodes: [{id: a b, path: a.py}]",
    "id with dot": "nodes: [{id: a.b, path: a.py}]",
    "id with leading dot": "nodes: [{id: .a, path: a.py}]",
    "id with umlaut": "nodes: [{id: ä, path: a.py}]",
    "id of dora": "nodes: [{id: dora, path: a.py}]",
    "empty id": 'nodes: [{id: "", path: a.py}]',
    "duplicate id": "nodes: [{id: a, path: a.py}, {id: a, path: b.py}]",
    "empty path": 'nodes: [{id: a, path: ""}]',
    "dynamic": "nodes: [{id: a, path: dynamic}]",
    "shell": "nodes: [{id: a, path: shell, args: echo x}]",
    "URL": "nodes: [{id: a, path: 'https://example.com/a.py'}]",
    "env": "env: {A: 1}\nnodes: []\n",
    "debug": "debug: {enable_debug_inspection: true}\nnodes: []\n",
    "debug as truth": "debug: true\nnodes: []\n",
    "unknown field of debug": "debug: {verbose: true}\nnodes: []\n",
    "deploy": "deploy: {machine: m}\nnodes: []\n",
    "health interval": "health_check_interval: 1.5\nnodes: []\n",
    "zero health interval": "health_check_interval: 0\nnodes: []\n",
    "exit when nodes finish": "exit_when_nodes_finish: true\nnodes: []\n",
    "strict types": "strict_types: true\nnodes: []\n",
    "type rules": "type_rules: [{from: std/core/v1/Int8, to: std/core/v1/Int64}]\nnodes: []\n",
    "communication of 0.x": "communication: {zenoh: {prefix: x}}\nnodes: []\n",
    "custom of 0.x": "nodes:\n  - {id: a, custom: {source: a.py, outputs: [x]}}\n",
    "unstable deploy of 0.x": "nodes:\n  - {id: a, path: a.py, _unstable_deploy: {machine: m}}\n",
    "mismatching types": "nodes:\n"
    "  - {id: a, path: a.py, outputs: [x], output_types: {x: std/core/v1/String}}\n"
    "  - {id: b, path: b.py, inputs: {i: a/x}, input_types: {i: std/core/v1/Int64}}\n",
    "mismatching types, strictly": "strict_types: true\nnodes:\n"
    "  - {id: a, path: a.py, outputs: [x], output_types: {x: std/core/v1/String}}\n"
    "  - {id: b, path: b.py, inputs: {i: a/x}, input_types: {i: std/core/v1/Int64}}\n",
    "operator": "nodes:\n"
    "  - {id: a, operator: {python: o.py, inputs: {t: dora/timer/millis/5}, outputs: [x]}}\n"
    "  - {id: b, path: b.py, inputs: {short: a/x}}\n",
    "single operator by its id": "nodes:\n  - {id: a, operator: {python: o.py, outputs: [x]}}\n"
    "  - {id: b, path: b.py, inputs: {i: a/op/x}}\n",
    "operators": "nodes:\n  - {id: a, operators: [{id: o, python: o.py, outputs: [x]}]}\n"
    "  - {id: b, path: b.py, inputs: {i: a/o/x}}\n",
    "operator without its id": "nodes:\n  - {id: a, operators: [{id: o, python: o.py, outputs: [x]}]}\n"
    "  - {id: b, path: b.py, inputs: {i: a/x}}\n",
    "unknown operator": "nodes:\n  - {id: a, operators: [{id: o, python: o.py, outputs: [x]}]}\n"
    "  - {id: b, path: b.py, inputs: {i: a/p/x}}\n",
    "operators without ids": "nodes:\n  - {id: a, operators: [{python: o.py}]}\n",
    "no operators": "nodes:\n  - {id: a, operators: []}\n",
    "operators with one id": "nodes:\n"
    "  - {id: a, operators: [{id: o, python: o.py}, {id: o, python: p.py}]}\n",
    "operator with conda": "nodes:\n  - {id: a, operator: {python: {source: o.py, conda_env: e}}}\n",
    "operator without a program": "nodes:\n  - {id: a, operator: {outputs: [x]}}\n",
    "operator in a library": "nodes:\n  - {id: a, operator: {shared-library: lib}}\n",
    "operator in WASM": "nodes:\n  - {id: a, operator: {wasm: a.wasm}}\n",
    "unknown field of an operator": "nodes:\n  - {id: a, operator: {python: o.py, colour: red}}\n",
    "ROS 2": "nodes:\n  - id: a\n    outputs: [x]\n"
    "    ros2: {topic: /t, message_type: std_msgs/String, direction: subscribe}\n",
    "hub": "nodes:\n  - {id: a, hub: some-package}\n",
    "absent module": "nodes:\n  - {id: m, module: absent.yml}\n",
    "module": "nodes:\n  - {id: a, path: a.py, outputs: [x]}\n"
    "  - {id: m, module: module.yml, inputs: {port: a/x}}\n"
    "  - {id: b, path: b.py, inputs: {i: m/result}}\n",
    "module without its input": "nodes:\n  - {id: m, module: module.yml}\n",
    "module with another input": "nodes:\n  - {id: a, path: a.py, outputs: [x]}\n"
    "  - {id: m, module: module.yml, inputs: {port: a/x, other: a/x}}\n",
    "unknown output of a module": "nodes:\n  - {id: a, path: a.py, outputs: [x]}\n"
    "  - {id: m, module: module.yml, inputs: {port: a/x}}\n"
    "  - {id: b, path: b.py, inputs: {i: m/absent}}\n",
    "module outside": "nodes:\n  - {id: m, module: ../module.yml}\n",
}

MODULE = """
module: {name: m, inputs: [port], outputs: [result]}
nodes:
  - {id: inner, path: inner.py, inputs: {i: _mod/port}, outputs: [result]}
"""

DOCUMENTS = {
    **{f"input: {name}": _input(value) for name, value in _INPUTS.items()},
    **{f"node: {name}": _node(fields) for name, fields in _FIELDS.items()},
    **{f"file: {name}": document for name, document in _WHOLE.items()},
}
