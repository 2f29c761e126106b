"""The program of a template process."""

import dora.daemon.template.server as template

template.serve()
