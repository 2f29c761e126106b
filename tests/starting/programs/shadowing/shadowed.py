import colorsys
import queue
import random
import sys

import numpy
import yaml
from facts import record

record("path", sys.path)
record("files", [module.__file__ for module in (random, numpy, queue, yaml)])
record("values", [module.value for module in (random, numpy, queue, yaml)])
record("not shadowed", colorsys.__file__)
