"""The template process: it has imported packages, and forks nodes, which start in milliseconds.

`server` is the process. `forked` makes a forked process like one that was executed. `packages` finds the
imports of a program, `imports` makes them. `checks` find cases in which a fork would differ. `client` is
the side of the daemon.
"""
