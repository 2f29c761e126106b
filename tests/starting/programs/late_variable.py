import ctypes
import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from facts import record

with open("/proc/self/maps") as file:
    (library,) = {line.split()[-1] for line in file if "openblas" in line}
np.ones(2)
record("threads of OpenBLAS", ctypes.CDLL(library).scipy_openblas_get_num_threads64_())
