"""delta_rs.py merge|scd2 TABLE CHANGES [--pruned]: applies a change file to a Delta table with the MERGE of deltalake for Python.

--pruned   hands the changes over as a table with known statistics (`streamed_exec=False`), from which delta-rs derives a filter on the target;
           without it, its default
What is written is compressed as delta-rs does by default (Snappy). A change file has one row per key, so it needs no dedup first.
"""

import sys
import time

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable


def merge(table, changes, **options):
    newer = "s.updated_at > t.updated_at"
    columns = [c for c in changes.column_names if c != "op"]
    values = {c: f"s.{c}" for c in columns}
    return (
        table.merge(changes, "t.customer_id = s.customer_id", source_alias="s", target_alias="t", **options)
        .when_matched_delete(f"s.op = 'D' and {newer}")
        .when_matched_update(values, f"s.op <> 'D' and {newer}")
        .when_not_matched_insert(values, "s.op <> 'D'")
        .execute()
    )


def scd2(table, changes, **options):
    """The usual way: each change that closes a version comes twice, once with its key, to close, and once without, to be inserted.

    Which changes do is found by reading the current rows of their keys first. Late rows are left out; they would have to be spliced
    into history, for which a MERGE has no words."""
    current = table.to_pyarrow_dataset().to_table(
        columns={"customer_id": pc.field("customer_id"), "since": pc.field("valid_from")},
        filter=pc.field("is_current") & pc.field("customer_id").isin(changes["customer_id"].combine_chunks()),
    )
    known = changes.join(current, "customer_id", join_type="inner")
    opens = known.filter((pc.field("updated_at") > pc.field("since")) & (pc.field("op") != "D")).drop_columns(["since"])
    keyed = changes.append_column("merge_key", changes["customer_id"])
    opened = opens.append_column("merge_key", pa.nulls(len(opens), pa.int64()))
    staged = pa.concat_tables([keyed, opened.select(keyed.column_names)])
    values = {c: f"s.{c}" for c in changes.column_names if c != "op"}
    values |= {"valid_from": "s.updated_at", "valid_to": "null", "is_current": "true"}
    return (
        table.merge(staged, "t.customer_id = s.merge_key and t.is_current", source_alias="s", target_alias="t", **options)
        .when_matched_update({"valid_to": "s.updated_at", "is_current": "false"}, "s.updated_at > t.valid_from")
        .when_not_matched_insert(values, "s.op <> 'D'")
        .execute()
    )


if __name__ == "__main__":
    start = time.monotonic()
    mode, target, source = sys.argv[1:4]
    options = {"streamed_exec": False} if "--pruned" in sys.argv[4:] else {}
    print({"merge": merge, "scd2": scd2}[mode](DeltaTable(target), pq.read_table(source), **options))
    print(f"work {time.monotonic() - start:.3f}")
