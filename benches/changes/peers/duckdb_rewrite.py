"""duckdb_rewrite.py merge|scd2 TABLE CHANGES OUT: what it costs to write the whole changed table anew with DuckDB, as bare Parquet files.

No log, no commit: the floor of the plan that rewrites everything. Late rows are spliced. The layout is the table's: by `part` or in one folder.
"""

import sys
import time

import duckdb
from deltalake import DeltaTable

start = time.monotonic()
mode, target, source, out = sys.argv[1:5]
table = DeltaTable(target)
parts = table.metadata().partition_columns
db = duckdb.connect()
db.execute("set preserve_insertion_order = false; set timezone = 'UTC'")
db.execute(f"create view s as select * from read_parquet('{source}')")
files = ", ".join(f"'{f.removeprefix('file://')}'" for f in table.file_uris())
read = f"read_parquet([{files}], hive_partitioning = {bool(parts)}, hive_types_autocast = true)"
columns = [f.name for f in table.schema().fields if f.name not in ("valid_from", "valid_to", "is_current")]
own = ", ".join("part::int as part" if c == "part" else c for c in columns)
events = f"""
    select {own}, 'U' as op from {read} where customer_id in (select customer_id from s)
    union all by name select {own}, op from s"""
if mode == "merge":
    changed = f"""select {", ".join(columns)} from ({events})
        qualify row_number() over (partition by customer_id order by updated_at desc, op = 'D' desc) = 1 and op <> 'D'"""
    kept = f"select {own} from {read} where customer_id not in (select customer_id from s)"
else:
    changed = f"""select * exclude (op), valid_to is null as is_current from (
        select *, updated_at as valid_from, lead(updated_at) over (partition by customer_id order by updated_at) as valid_to from ({events})) where op <> 'D'"""
    kept = f"select {own}, valid_from, valid_to, is_current from {read} where customer_id not in (select customer_id from s)"
by = ", partition_by (part)" if parts else ""
db.execute(f"copy ({kept} union all by name {changed}) to '{out}' (format parquet, compression zstd{by or ', per_thread_output true'})")
print(f"work {time.monotonic() - start:.3f}")
