"""A tree of values → YAML text that reads as the same tree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dora.dataflow import document
from dora.dataflow.document import Scalar, Sequence, YamlNode
from dora.dataflow.scalars import resolve

_WIDTH = 88  # characters of a list or mapping that may stand on one line


def to_yaml(root: document.Mapping) -> str:
    """Return the text of a document; numbers and the like are written as they were."""
    import yaml

    def events() -> Iterator[Any]:
        yield yaml.StreamStartEvent()
        yield yaml.DocumentStartEvent(explicit=False)
        yield from _events(root, yaml, 0)
        yield yaml.DocumentEndEvent(explicit=False)
        yield yaml.StreamEndEvent()

    text: str = yaml.emit(events(), Dumper=yaml.SafeDumper, width=1 << 30, allow_unicode=True)
    return text


def _events(value: YamlNode, yaml: Any, depth: int) -> Iterator[Any]:
    """Yield the events of the emitter; they bypass its own idea (that of YAML 1.1) of what is text."""
    if isinstance(value, Scalar):
        yield _scalar(value, yaml)
    elif isinstance(value, Sequence):
        yield yaml.SequenceStartEvent(None, None, True, flow_style=_fits_a_line(value))
        for item in value.items:
            yield from _events(item, yaml, depth + 1)
        yield yaml.SequenceEndEvent()
    elif isinstance(value, document.Mapping):
        # From the options of an input on, which are four levels deep.
        flow = depth > 3 and _fits_a_line(value)
        yield yaml.MappingStartEvent(None, None, True, flow_style=flow)
        for key, item in value.entries.values():
            yield _scalar(Scalar.of(key.text, key), yaml)
            yield from _events(item, yaml, depth + 1)
        yield yaml.MappingEndEvent()


def _fits_a_line(value: Sequence | document.Mapping) -> bool:
    if isinstance(value, Sequence):
        items: list[YamlNode] = list(value.items)
        length = 0
    else:
        items = [item for _, item in value.entries.values()]
        length = sum(len(name) + 2 for name in value.entries)
    return (
        all(isinstance(item, Scalar) and "\n" not in item.text for item in items)
        and length + sum(len(item.text) + 2 for item in items if isinstance(item, Scalar)) <= _WIDTH
    )


def _scalar(scalar: Scalar, yaml: Any) -> Any:
    text = scalar.text
    if scalar.value is None:
        text = "null"
    is_text = isinstance(scalar.value, str)
    may_be_plain = not is_text or (text not in ("", "<<") and isinstance(resolve(text), str))
    lines = text.split("\n")
    style = "|" if len(lines) > 1 else None
    if not all(line.isprintable() for line in lines):
        style = '"'  # the only one with escapes
    return yaml.ScalarEvent(None, None, (may_be_plain, True), text, style=style)
