"""The program of a template process."""

import dora.daemon.template.entry as template

__name__ = "dora.daemon.template"  # not the program's name: warnings may be about its caller
template.serve()
