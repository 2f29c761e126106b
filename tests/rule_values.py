"""Values, as YAML has them, with which tests give inputs and outputs each of their rules."""

from __future__ import annotations

from typing import Any

from dora.wire.input_rules import InputRule
from dora.wire.output_rules import OutputRule

_VALUES: dict[str, Any] = {
    "integer": 7,
    "seconds": 2.5,
    "duration": "5ms",
    "rate": "20hz",
    "keys": ["größe"],
    "text": "What the wheels need: [m/s], 'left' # -> \"x\"",
    "latch": {"depth": 3, "survive_restart": True},
    "safe_state": {
        "value": [0.5, 1.0],
        "type": "float32",
        "when": ["failed", "silent"],
        "metadata": {"mode": "hold"},
        "silence": "100ms",
    },
}


def value_of(rule: InputRule | OutputRule) -> Any:
    """Return a value that is not the default: the last of its choices, or one for its kind."""
    return rule.choices[-1] if rule.choices else _VALUES[rule.kind]
