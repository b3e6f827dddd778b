"""delta_rs.py TABLE TARGET_BYTES: compacts a Delta table with deltalake for Python, its own defaults otherwise."""

import sys
import time

from deltalake import DeltaTable

start = time.monotonic()
print(DeltaTable(sys.argv[1]).optimize.compact(target_size=int(sys.argv[2])))
print(f"work {time.monotonic() - start:.3f}")
