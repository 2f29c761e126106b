"""The descriptor of a dataflow: the document with its defaults filled in.

Programs written for dora-rs read keys such as ``inputs`` of every node, whether the file has them or not.
Numbers, texts and fields that only this dora has stay as they are in the document.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from dora.dataflow.model import Dataflow, LogSource, NodeSpec, Source, TimerSource
from dora.dataflow.parser.deploy import DEPLOY
from dora.dataflow.parser.fields import DEBUG, NODE_BLOCK
from dora.dataflow.parser.sources import UNITS, SourceFault, parse_source
from dora.dataflow.rules import input_rules_in_yaml, output_rules_in_yaml
from dora.dataflow.yaml.number_types import SecondsType, byte_size

_SECONDS = [name for name, field in NODE_BLOCK.fields.items() if isinstance(field.field_type, SecondsType)]
_ALSO_IN_NODE_CONFIG = ("sync", "output_types", "input_types", "output_framing", "shared_memory_pool_size")

Block = dict[str, Any]


def describe(dataflow: Dataflow) -> Block:
    """Return the descriptor, with the values of environment variables in place of their names.

    It is empty for a dataflow that comes from no document.
    """
    if not dataflow.descriptor:
        return {}
    nodes = {node.id: node for node in dataflow.nodes}
    described = with_defaults(dataflow.descriptor)
    _expand(described, dataflow.env)
    for node in described["nodes"]:
        for block in _owners(node):
            _separate_rules(block)
        if (spec := nodes.get(str(node.get("id")))) is not None:
            _expand(node, spec.env)
    return described


def document_fault(dataflow: Dataflow) -> str:
    """Return why the document of a dataflow does not belong to its nodes; "" if it does, or there is none.

    The document of a loaded file always does; clients of the coordinator may send anything.
    """
    if not dataflow.descriptor:
        return ""
    blocks = dataflow.descriptor.get("nodes")
    if not _are_mappings(blocks):
        return "its `descriptor` has no list of `nodes`"
    found = {str(block.get("id")): block for block in blocks}
    if len(found) < len(blocks) or found.keys() != {node.id for node in dataflow.nodes}:
        return "its `descriptor` has other nodes"
    return next(filter(None, (_block_fault(node, found[node.id]) for node in dataflow.nodes)), "")


def _block_fault(node: NodeSpec, block: Block) -> str:
    operators = block.get("operator") or block.get("operators") or []
    operators = operators if isinstance(operators, list) else [operators]
    if not _are_mappings(operators):
        return f"the operators of node `{node.id}` are no mappings in its `descriptor`"
    found: set[str] = set()
    owners = [("", block), *((f"{each['id']}/" if each.get("id") else "", each) for each in operators)]
    for prefix, owner in owners:
        outputs, inputs = owner.get("outputs") or [], owner.get("inputs") or {}
        if not isinstance(outputs, list) or not all(outputs) or not isinstance(inputs, dict):
            return f"the inputs or outputs of node `{node.id}` are none in its `descriptor`"
        found.update(f"{prefix}{name}" for name in inputs)
    if missing := {item.id for item in node.inputs} - found:
        return f"its `descriptor` does not have the input `{min(missing)}` of node `{node.id}`"
    return ""


def _are_mappings(value: Any) -> TypeGuard[list[Block]]:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def with_defaults(document: Mapping[str, Any]) -> Block:
    """Return a document with its defaults filled in; variables in it keep their names."""
    described: Block = {**document}
    described["nodes"] = [_node(node) for node in document.get("nodes") or ()]
    debug = described.pop("debug", None)
    interval = described.pop("health_check_interval", None)
    described["deploy"] = _deploy(described.pop("deploy", None))
    described["debug"] = {**DEBUG.defaults, **(debug if isinstance(debug, dict) else {})}
    described["health_check_interval"] = interval
    return described


def canonical(source: Source) -> str:
    """Return the text of a source, for timers with the largest unit that gives a whole number.

    >>> canonical(parse_source("dora/timer/hz/5")), canonical(parse_source("camera/image"))
    ('dora/timer/millis/200', 'camera/image')
    """
    if isinstance(source, TimerSource):
        unit, size = next(item for item in UNITS.items() if source.interval_ns % item[1] == 0)
        return f"dora/timer/{unit}/{source.interval_ns // size}"
    if isinstance(source, LogSource) and source.text != "dora/logs":
        return f"dora/logs/{source.level}" + (f"/{source.node}" if source.node else "")
    return str(source)


def _node(node: Mapping[str, Any]) -> Block:
    described: Block = {"id": None, "name": None, "description": None, **node}
    if isinstance(described["id"], int):
        described["id"] = str(described["id"])
    described.setdefault("env", None)
    _ports(described)
    for name in ("operator", "operators"):
        value = node.get(name)
        if isinstance(value, list):
            described[name] = [_operator(item) for item in value]
        elif value is not None:
            described[name] = _operator(value)
    for name in ("restart_policy", "max_restarts"):
        written = described.pop(name, None)
        described[name] = NODE_BLOCK.defaults[name] if written is None else written
    for name in _SECONDS:
        _as_float(described, name)
    size = described.get("shared_memory_pool_size")
    if isinstance(size, str) and (found := byte_size(size)) is not None:
        described["shared_memory_pool_size"] = int(found)
    if described.get("max_log_size") is not None:
        described["max_log_size"] = str(described["max_log_size"])
    described["deploy"] = _deploy(described.pop("deploy", None))
    return described


def _operator(operator: Mapping[str, Any]) -> Block:
    described: Block = {"id": None, "name": None, "description": None, **operator}
    python = operator.get("python")
    if isinstance(python, dict) and python.get("conda_env") is None and "source" in python:
        described["python"] = python["source"]
    _ports(described)
    return described


def _ports(described: Block) -> None:
    """Fill in the inputs and outputs of a node or operator."""
    outputs = described.pop("outputs", None) or ()
    inputs = described.pop("inputs", None) or {}
    rules = {name: given for name, given in map(_output, outputs) if given}
    names = sorted({name for name, _ in map(_output, outputs)})
    described["outputs"] = [{name: rules[name]} if name in rules else name for name in names]
    described["inputs"] = {name: _input(value) for name, value in sorted(inputs.items())}


def _output(entry: Any) -> tuple[str, Any]:
    """Return the name in an entry, and its rules, None if it has none."""
    if not isinstance(entry, dict):
        return str(entry), None
    name = next(iter(entry))
    return str(name), entry[name]


def _owners(node: Block) -> Iterator[Block]:
    """Yield a node and its operators."""
    yield node
    for name in ("operator", "operators"):
        value = node.get(name) or []
        yield from value if isinstance(value, list) else [value]


def _separate_rules(described: Block) -> None:
    """Make names of the outputs, as programs for dora-rs expect, and put their rules beside them."""
    outputs = dict(map(_output, described["outputs"]))
    described["outputs"] = list(outputs)
    if rules := {name: given for name, given in outputs.items() if given}:
        described["output_rules"] = rules


def _input(value: Any) -> Any:
    if not isinstance(value, dict):
        return _source(value)
    options = {name: option for name, option in value.items() if option is not None}
    _as_float(options, "input_timeout")
    options["source"] = _source(options.get("source"))
    return options if len(options) > 1 else options["source"]


def _source(text: Any) -> Any:
    try:
        return canonical(parse_source(text))
    except (SourceFault, TypeError, AttributeError):
        return text


def _deploy(deploy: Any) -> Block | None:
    if not isinstance(deploy, dict):
        return None
    described = {
        "machine": None,
        "working_dir": None,
        "distribute": DEPLOY.defaults["distribute"],  # the only default that dora-rs has
        **deploy,
    }
    if isinstance(labels := deploy.get("labels"), dict):
        texts = {True: "true", False: "false"}
        described["labels"] = {
            name: texts[value] if isinstance(value, bool) else str(value) for name, value in labels.items()
        }
    return described


def _as_float(block: Block, name: str) -> None:
    if isinstance(block.get(name), int):
        block[name] = float(block[name])


def _expand(block: Block, values: Mapping[str, str]) -> None:
    """Replace the texts with variables in ``env``."""
    env = block.get("env")
    if isinstance(env, dict):
        block["env"] = {
            name: values.get(name, value) if isinstance(value, str) and "$" in value else value
            for name, value in env.items()
        }


def run_config_of(node: NodeSpec, block: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `Node.node_config()` promises: short sources, or mappings where an option is set.

    ``outputs`` are names, as programs for dora-rs expect; ``output_rules`` has the rules of outputs.
    ``block``: the node in the descriptor.
    """
    inputs: dict[str, Any] = {}
    for item in sorted(node.inputs, key=lambda item: item.id):
        options = input_rules_in_yaml(item)
        source = canonical(item.source)
        inputs[item.id] = {"source": source, **options} if options else source
    further = {name: block[name] for name in _ALSO_IN_NODE_CONFIG if block.get(name)}
    if node.output_rules:
        further["output_rules"] = {
            name: output_rules_in_yaml(rules) for name, rules in sorted(node.output_rules.items())
        }
    return {"inputs": inputs, "outputs": sorted(node.outputs), **further}
