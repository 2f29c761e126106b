import sys
import warnings

import warned_about

warnings.warn("mine", stacklevel=1)
warnings.warn("deprecated", DeprecationWarning, stacklevel=1)
warnings.warn("pending", PendingDeprecationWarning, stacklevel=1)
warnings.warn("a resource", ResourceWarning, stacklevel=1)
for level in range(1, 8):
    warned_about.warn(level)
for _ in range(3):
    warnings.warn("once for each place", stacklevel=1)


def nested():
    warnings.warn("a level more than there are frames", stacklevel=9)


nested()
print(3 is 3)  # a warning of the compiler
print("\d")
open(__file__)  # not closed: a ResourceWarning, ignored
warnings.simplefilter("always")
open(__file__)
sys.stderr.flush()
