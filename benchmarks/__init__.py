"""Compare dora with dora-rs 1.1.0: the same node scripts and YAML files under both, in turn.

Run ``python -m benchmarks`` from the repository. ``measures.py`` is the table of what is measured,
``dataflows/`` holds what is run, ``docs/performance.md`` explains the figures and shows the published ones.
"""
