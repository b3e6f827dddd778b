"""check.py TABLE: files, their bytes, rows and a content hash of a Delta table, as one line of JSON."""

import json
import sys

import duckdb
from deltalake import DeltaTable

table = DeltaTable(sys.argv[1])
db = duckdb.connect()
db.execute("set timezone = 'UTC'")
db.register("t", table.to_pyarrow_dataset())
plain = "event_id, user_id, kind, page, country, amount::varchar, duration_ms, epoch_us(occurred_at)"
count, total = db.execute(f"select count(*), sum(hash({plain}))::varchar from t").fetchone()
sizes = table.get_add_actions(flatten=True)["size_bytes"].to_pylist()
print(json.dumps({"files": len(sizes), "bytes": sum(sizes), "rows": count, "hash": total}))
