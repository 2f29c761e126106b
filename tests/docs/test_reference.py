"""The reference of the Python API tells of everything that is public, with the right arguments."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import dora

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs" / "reference" / "python-api.md").read_text()


def documented_signatures() -> dict[str, str]:
    """Return name → arguments for every heading and table row that begins with ``name(…)``."""
    found = re.findall(r"^(?:#+ |\| )((?:`[^`]*`(?:, )?)+)", REFERENCE, re.MULTILINE)
    calls = [call for cell in found for call in re.findall(r"`(?:await )?(\w+)\(([^)]*)\)", cell)]
    # Methods of the user's operator, and of the sample that `send_output_raw` returns.
    elsewhere = {
        "Operator",
        "on_event",
        "on_reload",
        "as_buffer",
        "as_memoryview",
        "send",
        "discard",
        "numpy",
    }
    return {name: arguments for name, arguments in calls if name not in elsewhere}


@pytest.mark.parametrize("name", dora.__all__)
def test_every_public_name_is_in_the_reference(name: str) -> None:
    assert re.search(rf"`{name}\b|── {name} ", REFERENCE), f"{name} is not in docs/reference/python-api.md"


@pytest.mark.parametrize("name", sorted(name for name in vars(dora.Node) if not name.startswith("_")))
def test_every_member_of_node_is_in_the_reference(name: str) -> None:
    assert re.search(rf"`(await )?{name}\b", REFERENCE), (
        f"Node.{name} is not in docs/reference/python-api.md"
    )


@pytest.mark.parametrize(("name", "arguments"), sorted(documented_signatures().items()))
def test_documented_arguments_match_the_code(name: str, arguments: str) -> None:
    function = getattr(dora.Node, name, None) or getattr(dora, name)
    wanted = [part.strip() for part in arguments.split(",") if part.strip()]
    real = [
        parameter.name
        if parameter.default is inspect.Parameter.empty
        else f"{parameter.name}={parameter.default!r}".replace("'", '"')
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name != "self"
    ]
    if "..." in wanted:  # keyword-only arguments, listed in a table of their own
        found = inspect.getfullargspec(function)
        keywords = [*found.kwonlyargs, *([f"**{found.varkw}"] if found.varkw else [])]
        assert all(f"| `{keyword}" in REFERENCE for keyword in keywords)
        wanted = wanted[: wanted.index("*")]
        real = real[: len(real) - len(keywords)]
    assert wanted == real


def test_environment_variables_are_documented() -> None:
    pages = "".join(page.read_text() for page in (ROOT / "docs").rglob("*.md"))
    read = set()
    for module in (ROOT / "src" / "dora").rglob("*.py"):
        read |= set(re.findall(r'environ(?:\.get\(|\[)"(DORA_\w+)"', module.read_text()))
    assert "DORA_SPIN_US" in read
    assert sorted(name for name in read if name not in pages) == []


def metric_names() -> list[str]:
    """Return the names of the metrics for OpenTelemetry, and on the page ``/metrics``."""
    from dora.cluster.coordinator import metrics
    from dora.observe.telemetry.export import _INSTRUMENTS
    from dora.wire.metrics import METRIC_KINDS

    tables = {kind.name: kind.metrics for kind in METRIC_KINDS} | {"path": metrics._PATH_METRICS}
    return [
        *(row[0] for row in _INSTRUMENTS),
        "dora_node_running",
        *(
            f"dora_{name}_{metric.prometheus}" + ("_total" if metric.is_total else "")
            for name, table in tables.items()
            for metric in table
        ),
    ]


@pytest.mark.parametrize("name", metric_names())
def test_every_metric_is_in_the_docs(name: str) -> None:
    pages = [ROOT / "docs" / place for place in ("how-to/telemetry.md", "reference/counters.md")]
    assert any(f"`{name}`" in page.read_text() for page in pages)
