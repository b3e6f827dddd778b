"""What a table holds, and what it should: count and content hash of its rows, as one line of JSON.

usage: check.py expect MODE INITIAL_FOLDER CHANGES     from the input files, by the definition of the mode
       check.py delta MODE TABLE                       from a Delta table
       check.py parquet MODE FOLDER                    from bare Parquet files

`current` are the rows that hold now, `history` all versions with their bounds (mode scd2). The hash does not depend on the order of rows.
"""

import json
import sys

import duckdb
from deltalake import DeltaTable

COLUMNS = ["customer_id", "name", "city", "email", "segment", "balance", "updated_at", "part"]
PLAIN = [f"{c}::bigint" if c in ("customer_id", "part") else f"epoch_us({c})" if c == "updated_at" else f"{c}::varchar" for c in COLUMNS]
HISTORY = [*PLAIN, "epoch_us(valid_from)", "epoch_us(valid_to)"]


def expected(db, mode, initial, changes):
    """A view `t` of the table as it should be: all events of the keys that changed in their order, and the other rows as they were.

    No two events of a key are equal in time or in what they say, so that ties and coalescing need no thought here."""
    db.execute(f"create view before as select * from read_parquet('{initial}/*.parquet')")
    db.execute(f"create table changes as select * from read_parquet('{changes}')")
    db.execute("""
        create table changed as select *, valid_to is null as is_current from (
            select *, updated_at as valid_from, lead(updated_at) over (partition by customer_id order by updated_at) as valid_to
            from (from before where customer_id in (select customer_id from changes) union all by name from changes))
        where op <> 'D'""")
    shown = "where is_current" if mode == "merge" else ""
    db.execute(f"""
        create view t as select * from changed {shown} union all by name
        select *, updated_at as valid_from, null::timestamptz as valid_to, true as is_current
        from before where customer_id not in (select customer_id from changes)""")


def main():
    what, mode, source = sys.argv[1:4]
    db = duckdb.connect()
    db.execute("set timezone = 'UTC'; set preserve_insertion_order = false")
    answer = {}
    if what == "expect":
        expected(db, mode, source, sys.argv[4])
    elif what == "delta":
        table = DeltaTable(source)
        db.register("t", table.to_pyarrow_dataset())
        answer["files"] = len(table.file_uris())
    else:
        db.execute(f"create view t as select * from read_parquet('{source}/**/*.parquet', hive_partitioning = true)")
    current = " where is_current" if mode == "scd2" else ""
    answer["current"] = summed(db, PLAIN, current)
    if mode == "scd2":
        answer["history"] = summed(db, HISTORY, "")
    print(json.dumps(answer))


def summed(db, columns, where):
    count, total = db.execute(f"select count(*), coalesce(sum(hash({', '.join(columns)})), 0)::varchar from t{where}").fetchone()
    return [count, total]


if __name__ == "__main__":
    main()
