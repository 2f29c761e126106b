"""The template process: it has imported packages, and forks nodes, which start in milliseconds.

`entry` is the program of the process, `server` its loop. `imports` imports packages, `children` are the
templates of packages that a dataflow names. `forked` makes a forked process like one that was executed.
`checks` find cases in which a fork would differ. `client` is the side of the daemon.
"""
