import os
import threading

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from facts import record

a = np.arange(300 * 300, dtype=np.float64).reshape(300, 300)
record("product", float((a @ a.T).trace()))
results = []
workers = [threading.Thread(target=lambda: results.append(float((a @ a).sum()))) for _ in range(4)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
record("products in threads", sorted(set(results)))
record("linear algebra", [round(float(value), 6) for value in np.linalg.svd(a[:5, :5], compute_uv=False)])
record("errors", np.geterr())
record("options", np.get_printoptions())
table = pa.table(
    {"x": pa.array(range(100_000)), "y": pa.array([str(number % 7) for number in range(100_000)])}
)
record("sum", pc.sum(table["x"]).as_py())
groups = table.group_by("y", use_threads=True).aggregate([("x", "sum")]).sort_by("y")
record("groups", groups.to_pylist())
record("threads of arrow", [pa.cpu_count() > 0, pa.io_thread_count()])
record("pool", pa.default_memory_pool().backend_name)
record("memory of arrow", pa.array([1]).nbytes)
file = os.environ["FACTS"] + ".parquet"
pq.write_table(table, file)
record("parquet", [pq.read_table(file, use_threads=True).equals(table), os.path.getsize(file)])
os.unlink(file)
child = os.fork()
if child == 0:
    np.linalg.inv(a[:50, :50] + np.eye(50))
    os._exit(0 if pc.sum(pa.array([1, 2])).as_py() == 3 else 1)
record("a forked child computes", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
