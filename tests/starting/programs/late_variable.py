import ctypes
import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from facts import record

with open("/proc/self/maps") as file:
    (library,) = {line.split()[-1] for line in file if "openblas" in line}
np.ones(2)
openblas = ctypes.CDLL(library)
old = hasattr(openblas, "openblas_get_num_threads64_")  # before NumPy 2
count = openblas.openblas_get_num_threads64_ if old else openblas.scipy_openblas_get_num_threads64_
record("threads of OpenBLAS", count())
