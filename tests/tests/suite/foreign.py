"""Appends to a Delta table with delta-rs, a row a commit, while others write too. usage: foreign.py TABLE ROWS
The rows have the columns id (-1, -2, ...) and city ('foreign'). Store and credentials come from the environment."""
import sys

import deltalake
import pyarrow as pa

table, rows = sys.argv[1], int(sys.argv[2])
for i in range(1, rows + 1):
    row = pa.table({"id": pa.array([-i], pa.int64()), "city": pa.array(["foreign"], pa.string())})
    deltalake.write_deltalake(table, row, mode="append")
