"""Reads a Delta table with deltalake, Polars and DuckDB and a query's rows for each. usage: readers.py TABLE COLUMN[,COLUMN...]
Prints one JSON object: for each reader the rows as sorted lists of strings."""
import datetime, decimal, json, sys

import deltalake
import duckdb
import polars

table, columns = sys.argv[1], sys.argv[2].split(",")
delta = deltalake.DeltaTable(table)


def text(value):
    if value is None:
        return "NULL"
    if isinstance(value, datetime.datetime):
        if value.tzinfo:
            value = value.astimezone(datetime.timezone.utc)
        return value.strftime("%Y-%m-%dT%H:%M:%S.%f")
    if isinstance(value, float):
        return repr(round(value, 6))
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    return str(value)


def rows(records):
    return sorted([text(v) for v in record] for record in records)


out = {}
arrow = delta.to_pyarrow_table(columns=columns)
out["deltalake"] = rows(zip(*[arrow.column(c).to_pylist() for c in columns])) if columns else []
frame = polars.read_delta(table).select(columns)
out["polars"] = rows(frame.iter_rows())
con = duckdb.connect()
con.execute("set timezone='UTC'")
files = [u.removeprefix("file://") for u in delta.file_uris()]
names = ", ".join(f'"{c}"' for c in columns)
out["duckdb"] = rows(con.execute(f"select {names} from read_parquet(?, hive_partitioning=true, union_by_name=true)", [files]).fetchall())
print(json.dumps(out))
