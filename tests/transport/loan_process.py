"""A process whose program looks at loans that it has sent, while /dev/shm is full; see `test_shm_loans`."""

from __future__ import annotations

import os
import sys

import numpy as np
from linking import Bench

SIZE = 1 << 20


def main() -> None:
    bench = Bench("shm")
    output_port, (port,) = bench.link(10)
    looked_at = []
    for number in range(4):
        loan = output_port.fill(output_port.message(bytes([number]) * SIZE))
        # As in `dora.node.send.loan`: the array keeps the loan, which keeps no block once it is sent.
        looked_at.append((loan, np.frombuffer(loan.memory, np.uint8)))
        loan.send()
    port.take_all()
    files = len([name for _, _, names in os.walk(f"/dev/shm/{bench.prefix}links") for name in names])
    for _ in range(600):  # of another size: the four blocks are idle, and their memory is freed
        output_port.send(b"x")
        port.take()
    after = [name for _, _, names in os.walk(f"/dev/shm/{bench.prefix}links") for name in names]
    assert len(after) < files, "nothing was freed"
    with open("/dev/shm/filler", "wb", buffering=0) as filler:
        try:
            while filler.write(bytes(1 << 16)):
                pass
        except OSError:
            pass
    status = os.statvfs("/dev/shm")
    print("free", status.f_bavail * status.f_frsize, flush=True)
    for _, array in looked_at:
        int(array.sum())
    print("read", flush=True)
    os.unlink("/dev/shm/filler")
    output_port.send(b"goes on")
    assert port.take()
    looked_at.clear()
    bench.close()


if __name__ == "__main__":
    sys.exit(main())
