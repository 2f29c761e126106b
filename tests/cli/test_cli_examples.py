"""The examples in the docstrings of the command line and of the logs are right."""

import doctest
from importlib import import_module

import pytest

MODULES = (
    "dora.building.inline",
    "dora.building.pip",
    "dora.cli.build",
    "dora.cli.param",
    "dora.cli.report",
    "dora.cli.values",
    "dora.logs.filters",
    "dora.logs.formats",
    "dora.logs.parse",
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    outcome = doctest.testmod(import_module(name))
    assert outcome.attempted and not outcome.failed
