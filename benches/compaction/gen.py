"""Makes a Delta table of many small files, as a stream of small commits leaves it: LAKE/silver/events.

usage: gen.py LAKE [--files N] [--rows-per-file N] [--files-per-commit N] [--seed N]

The log is written plainly, version by version with statistics, and has a checkpoint at its end: making the table through a
writer of 100 commits would take longer than compacting it.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

KINDS = np.array(["view", "click", "cart", "order", "return"])
PAGES = np.array([f"/product/{i}" for i in range(5000)])
COUNTRIES = np.array("BR AR CL CO MX PE UY PT ES US".split())
START = np.datetime64("2026-01-01T00:00:00", "us")
MADE = 1_767_225_600_000  # milliseconds, the same for every table that is made
TYPES = {
    "event_id": "long",
    "user_id": "long",
    "kind": "string",
    "page": "string",
    "country": "string",
    "amount": "decimal(12,2)",
    "duration_ms": "integer",
    "occurred_at": "timestamp",
}


def rows(number, n, r):
    """File `number`: ids and times go on from file to file, the rest is random."""
    cents = np.zeros((n, 2), np.int64)
    cents[:, 0] = r.integers(0, 500_000, n)
    times = START + (np.int64(number) * n + np.arange(n)) * np.timedelta64(50, "ms")
    return pa.table(
        {
            "event_id": pa.array(np.int64(number) * n + np.arange(n)),
            "user_id": pa.array(r.integers(0, 1_000_000, n)),
            "kind": pa.array(KINDS[r.integers(0, len(KINDS), n)]),
            "page": pa.array(PAGES[r.integers(0, len(PAGES), n)]),
            "country": pa.array(COUNTRIES[r.integers(0, len(COUNTRIES), n)]),
            "amount": pa.Array.from_buffers(pa.decimal128(12, 2), n, [None, pa.py_buffer(cents)]),
            "duration_ms": pa.array(r.integers(0, 60_000, n).astype(np.int32)),
            "occurred_at": pa.array(times.astype("datetime64[us]"), pa.timestamp("us", tz="UTC")),
        }
    )


def add(path, name, table):
    first, last = table["occurred_at"][0].as_py(), table["occurred_at"][-1].as_py()
    stamp = lambda t: t.strftime("%Y-%m-%dT%H:%M:%S.") + f"{t.microsecond // 1000:03}Z"
    ids = table["event_id"]
    stats = {
        "numRecords": len(table),
        "minValues": {"event_id": ids[0].as_py(), "occurred_at": stamp(first)},
        "maxValues": {"event_id": ids[-1].as_py(), "occurred_at": stamp(last)},
        "nullCount": {c: 0 for c in table.column_names},
    }
    size = path.stat().st_size
    return {"add": {"path": name, "partitionValues": {}, "size": size, "modificationTime": MADE, "dataChange": True, "stats": json.dumps(stats)}}


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("lake", type=Path)
    p.add_argument("--files", type=int, default=2000)
    p.add_argument("--rows-per-file", type=int, default=2000)
    p.add_argument("--files-per-commit", type=int, default=20)
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    table = a.lake / "silver" / "events"
    shutil.rmtree(table, ignore_errors=True)
    log = table / "_delta_log"
    log.mkdir(parents=True)
    fields = [{"name": c, "type": t, "nullable": True, "metadata": {}} for c, t in TYPES.items()]
    schema = json.dumps({"type": "struct", "fields": fields})
    meta = {"id": "00000000-0000-4000-8000-000000000000", "format": {"provider": "parquet", "options": {}}, "schemaString": schema}
    meta |= {"partitionColumns": [], "configuration": {}, "createdTime": MADE}
    commit(log, 0, [{"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}, {"metaData": meta}])
    r = np.random.default_rng(a.seed)
    for version, start in enumerate(range(0, a.files, a.files_per_commit), 1):
        actions = []
        for number in range(start, min(a.files, start + a.files_per_commit)):
            made, name = rows(number, a.rows_per_file, r), f"part-{number:05}.zstd.parquet"
            pq.write_table(made, table / name, compression="zstd", compression_level=3)
            actions.append(add(table / name, name, made))
        commit(log, version, actions)
    DeltaTable(table).create_checkpoint()


def commit(log, version, actions):
    actions.append({"commitInfo": {"timestamp": MADE + version, "operation": "WRITE", "operationParameters": {"mode": "Append"}}})
    (log / f"{version:020}.json").write_text("".join(json.dumps(a) + "\n" for a in actions))


if __name__ == "__main__":
    main()
