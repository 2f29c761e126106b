import os

import numpy as np
from facts import record

a = np.ones((500, 500))
record("sum", float((a @ a).sum()))
record("threads", len(os.listdir("/proc/self/task")))
